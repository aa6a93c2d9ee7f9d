"""The tables of `dlms.cosem.dictionary` as text: what value groups C, D and E mean (IEC 62056-6-1)."""

ABSTRACT = """
0.1.0 1 billing period counter
0.1.1 1 number of billing periods available
0.1.2 1 end of the last billing period
0.1.3 1 billing period counter, second scheme
0.1.4 1 number of billing periods available, second scheme
0.1.5 1 end of the last billing period, second scheme
0.2.0 1 active firmware id
0.2.1 1 active firmware version
0.2.8 1 active firmware signature
0.9.1 1 local time
0.9.2 1 local date
1.0.* 8 clock
1.1.* 1 clock as UNIX time
2.0.* 27 modem configuration
2.1.* 29 auto connect
2.2.* 28 auto answer
10.0.0 9 global meter reset script
10.0.1 9 MDI reset script
10.0.100 9 tariffication script
10.0.101 9 activate test mode script
10.0.102 9 activate normal mode script
10.0.103 9 set output signals script
10.0.104 9 switch optical test output script
10.0.105 9 power quality measurement script
10.0.106 9 disconnect script
10.0.107 9 image activation script
10.0.108 9 push script
10.0.109 9 load profile control script
10.0.110 9 M-Bus profile control script
10.0.111 9 function control script
10.0.* 9 script
11.0.* 11 special days
12.0.* 10 schedule
13.0.* 20 activity calendar
14.0.* 6 register activation
15.0.0 22 end of billing period
15.0.1 22 disconnect control schedule
15.0.2 22 image activation schedule
15.0.3 22 output control schedule
15.0.4 22 push schedule
15.0.5 22 load profile control schedule
15.0.6 22 M-Bus profile control schedule
15.0.7 22 function control schedule
15.0.* 22 single action schedule
16.0.* 21 register monitor
16.1.* 21 alarm monitor
16.2.* 65 parameter monitor
17.0.* 71 limiter
19.0-9.* 111 account
19.10-19.* 112 credit
19.20-29.* 113 charge
19.40-49.* 115 token gateway
20.0.0 19 IEC optical port setup
20.0.1 19 IEC electrical port setup
21.0.0 7 general local port readout
21.0.1 7 general display readout
21.0.2 7 alternate display readout
21.0.3 7 service display readout
21.0.4 7 list of configurable meter data
21.0.* 7 readout
22.0.* 23 HDLC setup
24.0.* 25 M-Bus slave port setup
24.1.* 72 M-Bus client
24.2.* 4 M-Bus value
24.3.* 7 M-Bus profile
24.4.* 70 M-Bus disconnect control
24.5.* 7 M-Bus control log
24.6.* 74 M-Bus master port setup
25.0.* 41 TCP-UDP setup
25.1.* 42 IPv4 setup
25.2.* 43 MAC address setup
25.3.* 44 PPP setup
25.4.* 45 GPRS modem setup
25.5.* 46 SMTP setup
25.6.* 47 GSM diagnostic
25.7.* 48 IPv6 setup
25.9.* 40 push setup
25.10.* 100 NTP setup
28.0.* 80 PRIME LLC SSCS setup
28.1.* 81 PRIME physical layer counters
28.2.* 82 PRIME MAC setup
28.3.* 83 PRIME MAC functional parameters
28.4.* 84 PRIME MAC counters
28.5.* 85 PRIME MAC network administration
28.6.* 43 PRIME MAC address setup
28.7.* 86 PRIME applications identification
40.0.0 15 current association
40.0.* 15 association
41.0.* 17 SAP assignment
42.0.* 1 COSEM logical device name
43.0.* 64 security setup
43.1.* 1 invocation counter
43.2.* 30 data protection
44.0.* 18 image transfer
44.1.* 122 function control
44.2.* 124 communication port protection
66.0.* 62 compact data
96.1.0-9 1 device id +1
96.1.10 1 metering point id
96.1.255 1 device ids
96.2.0 1 configuration change counter
96.2.1 1 time of the last configuration change
96.2.2 1 time of the last time switch program change
96.2.3 1 time of the last ripple control receiver program change
96.2.4 1 status of security switches
96.2.5 1 time of the last calibration
96.2.6 1 time of the next configuration change
96.2.7 1 time of the next activation of the passive calendar
96.2.10 1 number of protected configuration changes
96.2.11 1 time of the last protected configuration change
96.2.12 1 time of the last clock synchronisation
96.2.13 1 time of the last firmware activation
96.3.0 1 state of control signals
96.3.1 1 state of input control signals
96.3.2 1 state of output control signals
96.3.10 70 disconnect control
96.3.20-29 68 arbitrator
96.4.* 1 state of internal control signals
96.5.* 1 operating status
96.6.0 3 battery use time
96.6.1 3 battery charge
96.6.2 1 time of the next battery change
96.6.3 3 battery voltage
96.6.4 3 battery initial capacity
96.6.5 1 time of the battery's installation
96.6.6 3 battery remaining time
96.6.10 3 auxiliary supply use time
96.6.11 3 auxiliary supply voltage
96.7.0 1 power failures, all phases
96.7.1 1 power failures, L1
96.7.2 1 power failures, L2
96.7.3 1 power failures, L3
96.7.4 1 power failures, auxiliary supply
96.7.5 1 long power failures, all phases
96.7.6 1 long power failures, L1
96.7.7 1 long power failures, L2
96.7.8 1 long power failures, L3
96.7.9 1 long power failures, any phase
96.7.10 1 time of the last power failure, all phases
96.7.11 1 time of the last power failure, L1
96.7.12 1 time of the last power failure, L2
96.7.13 1 time of the last power failure, L3
96.7.14 1 time of the last power failure, any phase
96.7.15 3 duration of the last long power failure, all phases
96.7.16 3 duration of the last long power failure, L1
96.7.17 3 duration of the last long power failure, L2
96.7.18 3 duration of the last long power failure, L3
96.7.19 3 duration of the last long power failure
96.7.20 3 threshold for a long power failure
96.7.21 1 power failures, any phase
96.8.0 3 operating time
96.8.1-63 3 operating time, tariff +0
96.9.0 3 ambient temperature
96.9.1 3 ambient pressure
96.9.2 3 relative humidity
96.10.1-10 1 profile status
96.11.0-99 1 event code
96.12.4 1 communication port parameter
96.12.5 3 GSM field strength
96.12.6 1 telephone number
96.13.0 1 consumer message, local port
96.13.1 1 consumer message, display
96.14.0-15 1 active tariff
96.15.0-99 1 event counter
96.20.0 1 meter cover open counter
96.20.1 1 time of the last meter cover opening
96.20.5 1 terminal cover open counter
96.20.6 1 time of the last terminal cover opening
96.20.15 1 strong magnetic field counter
96.20.16 1 time of the last strong magnetic field
97.97.0-9 1 error register
97.97.255 1 error table
97.98.0-9 1 alarm register
97.98.10-19 1 alarm filter
97.98.20-29 1 alarm descriptor
98.1.* 7 billing profile
98.2.* 7 billing profile, second scheme
99.1.* 7 load profile 1
99.2.* 7 load profile 2
99.3.* 7 load profile during test
99.12.* 7 connection profile
99.13.* 7 GSM diagnostic profile
99.98.1 7 fraud log
99.98.* 7 event log
99.99.* 7 certification log
"""
"""Abstract objects (A = 0), which the other media have too: `C.D.E class name`; `*` is any E, `+1` shows E plus 1."""

GENERAL = """
0.0.0 customer number
0.0.* electricity id
0.2.0 firmware id
0.2.1 parameter record number
0.2.2 time switch program number
0.2.3 ripple control receiver program number
0.2.4 connection diagram id
0.2.8 firmware signature
0.3.0 meter constant, active energy
0.3.1 meter constant, reactive energy
0.3.2 meter constant, apparent energy
0.3.3 meter constant of the output, active energy
0.3.4 meter constant of the output, reactive energy
0.3.5 meter constant of the output, apparent energy
0.3.6 meter constant, volt-squared hours
0.3.7 meter constant, ampere-squared hours
0.4.0 reading factor for power
0.4.1 reading factor for energy
0.4.2 current transformer ratio
0.4.3 voltage transformer ratio
0.4.4 overall transformer ratio
0.4.5 current transformer ratio, denominator
0.4.6 voltage transformer ratio, denominator
0.4.7 overall transformer ratio, denominator
0.6.0 nominal voltage
0.6.1 nominal current
0.6.2 nominal frequency
0.6.3 maximum current
0.6.4 reference voltage
0.8.0 demand period
0.8.1 demand period 2
0.8.2 demand period 3
0.8.4 load profile period
0.8.5 daily profile period
0.8.6 billing period
0.9.1 local time
0.9.2 local date
"""
"""Electricity, C = 0: `C.D.E name`."""

QUANTITIES: dict[int, str] = {
    1: "active power +", 2: "active power -", 3: "reactive power +", 4: "reactive power -", 5: "reactive power QI",
    6: "reactive power QII", 7: "reactive power QIII", 8: "reactive power QIV", 9: "apparent power +",
    10: "apparent power -", 11: "current any phase", 12: "voltage any phase", 13: "power factor", 14: "frequency",
    15: "active power absolute", 16: "active power net", 17: "active power QI", 18: "active power QII",
    19: "active power QIII", 20: "active power QIV", 31: "current L1", 32: "voltage L1", 33: "power factor L1",
    34: "frequency L1", 51: "current L2", 52: "voltage L2", 53: "power factor L2", 54: "frequency L2",
    71: "current L3", 72: "voltage L3", 73: "power factor L3", 74: "frequency L3", 81: "phase angle",
    82: "unitless quantity", 83: "losses", 84: "power factor -", 85: "power factor - L1", 86: "power factor - L2",
    87: "power factor - L3", 88: "ampere-squared hours", 89: "volt-squared hours", 90: "sum of currents",
    91: "current neutral", 92: "voltage neutral",
}  # fmt: skip
PHASE_BASES = {21: "L1", 41: "L2", 61: "L3"}  # C = base + n: quantity n + 1 of one phase
PROCESSING: dict[int, str] = {
    0: "billing period average", 1: "cumulative minimum", 2: "cumulative maximum", 3: "minimum", 4: "current average",
    5: "last average", 6: "maximum", 7: "instantaneous", 8: "energy", 9: "energy of the billing period",
    10: "energy over the limit", 11: "cumulative minimum 2", 12: "cumulative maximum 2", 13: "minimum 2",
    14: "current average 2", 15: "last average 2", 16: "maximum 2", 21: "cumulative minimum 3",
    22: "cumulative maximum 3", 23: "minimum 3", 24: "average", 25: "last average 3", 26: "maximum 3",
    27: "current average of period 1", 28: "current average of period 2", 29: "energy of the interval",
    30: "energy of the second interval", 31: "threshold under", 32: "counter of under", 33: "duration of under",
    34: "magnitude of under", 35: "threshold over", 36: "counter of over", 37: "duration of over",
    38: "magnitude of over", 39: "threshold missing", 40: "counter of missing", 41: "duration of missing",
    42: "magnitude of missing", 43: "time threshold under", 44: "time threshold over", 45: "time threshold missing",
    46: "contracted value", 55: "test average", 58: "test energy",
}  # fmt: skip
INTEGRALS = frozenset({8, 9, 10, 29, 30, 58})
HARMONICS_MAX = 120  # E of instantaneous voltages, currents and active powers

ANGLE_PHASES = ("U L1", "U L2", "U L3", "", "I L1", "I L2", "I L3", "I neutral")

MEDIA: dict[int, tuple[str, dict[int, str]]] = {
    4: ("heat cost", {1: "unrated integral", 2: "rated integral"}),
    5: ("cooling", {}),
    6: ("heat", {
        1: "energy", 2: "volume", 3: "mass", 4: "flow volume", 5: "return volume", 8: "power", 9: "flow rate",
        10: "flow temperature", 11: "return temperature", 12: "temperature difference", 13: "pressure",
    }),
    7: ("gas", {
        1: "undisturbed volume", 2: "disturbed volume", 3: "volume", 11: "undisturbed volume of the converter",
        12: "disturbed volume of the converter", 13: "volume of the converter", 41: "temperature",
        42: "absolute pressure", 43: "flow rate", 52: "conversion factor", 53: "compressibility factor",
    }),
    8: ("cold water", {1: "volume", 2: "flow rate", 3: "temperature"}),
    9: ("hot water", {1: "volume", 2: "flow rate", 3: "temperature"}),
}  # fmt: skip
MEDIA[5] = ("cooling", MEDIA[6][1])
