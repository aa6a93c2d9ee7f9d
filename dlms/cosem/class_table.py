"""The table of interface classes as text (BB 4.3 to 4.9, IEC 62056-6-2); `dlms.cosem.classes` describes its format.

Names are those of the Blue Book in lower case. Where it has a CHOICE, or makers disagree, the type is `any`.
"""

TABLE = """
% baud 0=300 1=600 2=1200 3=2400 4=4800 5=9600 6=19200 7=38400 8=57600 9=115200
% sort_method 1=fifo 2=lifo 3=largest 4=smallest 5=nearest_to_zero 6=farthest_from_zero
% clock_base 0=not_defined 1=internal_crystal 2=mains_50_hz 3=mains_60_hz 4=gps 5=radio_controlled
% script_service 1=write_attribute 2=execute_method
% association_status 0=non_associated 1=association_pending 2=associated
% image_status 0=not_initiated 1=initiated 2=verification_initiated 3=verification_successful 4=verification_failed
%+ 5=activation_initiated 6=activation_successful 7=activation_failed
% transport 0=tcp 1=udp 2=ftp 3=smtp 4=sms 5=hdlc 6=m_bus 7=zigbee 8=dlms_gateway
% message 0=a_xdr 1=xml 128=manufacturer_specific
% restriction_type 0=none 1=by_date 2=by_entry
% protection_type 0=authentication 1=encryption 2=authentication_and_encryption 3=digital_signature
% push_method 0=unconfirmed_retry_on_failure 1=unconfirmed_retry_on_missing_confirmation 2=confirmed
% key_info_type 0=identified_key 1=wrapped_key 2=agreed_key
% security_suite 0=aes_gcm_128 1=ecdh_ecdsa_aes_gcm_128_sha_256 2=ecdh_ecdsa_aes_gcm_256_sha_384
% security_policy_0 0=nothing 1=authenticated 2=encrypted 3=authenticated_and_encrypted
% key_id 0=global_unicast_encryption 1=global_broadcast_encryption 2=authentication 3=master
% certificate_entity 0=server 1=client 2=certification_authority 3=other
% certificate_type 0=digital_signature 1=key_agreement 2=tls 3=other
% key_pair 0=digital_signature 1=key_agreement 2=tls
% control_state 0=disconnected 1=connected 2=ready_for_reconnection
% mbus_key_status 0=no_key 1=key_set 2=key_transferred 3=key_set_and_transferred 4=key_in_use
% capture_method 0=by_invocation 1=implicit
% gsm_status 0=not_registered 1=registered_home 2=searching 3=registration_denied 4=unknown 5=registered_roaming
% cs_attachment 0=inactive 1=incoming_call 2=active
% ps_status 0=inactive 1=gprs 2=edge 3=umts 4=hsdpa 5=lte 6=cdma

@ scal_unit scaler:integer unit:unit
@ object_definition class_id:long-unsigned logical_name:logical-name
@ value_definition class_id:long-unsigned logical_name:logical-name attribute_index:integer
@ capture_object class_id:long-unsigned logical_name:logical-name attribute_index:integer data_index:long-unsigned
@ register_act_mask mask_name:octet-string index_list:array:unsigned
@ preset_time preset_time:datetime validity_interval_start:datetime validity_interval_end:datetime
@ script_action service_id:enum:script_service class_id:long-unsigned logical_name:logical-name index:integer
@+ parameter:any
@ script script_identifier:long-unsigned actions:array:@script_action
@ schedule_entry index:long-unsigned enable:boolean script_logical_name:logical-name script_selector:long-unsigned
@+ switch_time:time validity_window:long-unsigned exec_weekdays:bit-string exec_specdays:bit-string begin_date:date
@+ end_date:date
@ schedule_ranges first_index_a:long-unsigned last_index_a:long-unsigned first_index_b:long-unsigned
@+ last_index_b:long-unsigned
@ index_range first_index:long-unsigned last_index:long-unsigned
@ special_day index:long-unsigned specialday_date:date day_id:unsigned
@ attribute_access attribute_id:integer access_mode:enum access_selectors:any
@ method_access method_id:integer access_mode:any
@ access_rights attribute_access:array:@attribute_access method_access:array:@method_access
@ sn_object base_name:long class_id:long-unsigned version:unsigned logical_name:logical-name
@ sn_access base_name:long attribute_access:array:@attribute_access method_access:array:@method_access
@ ln_object class_id:long-unsigned version:unsigned logical_name:logical-name access_rights:@access_rights
@ user user_id:unsigned user_name:visible-string
@ partners client_sap:integer server_sap:long-unsigned
@ xdlms_context conformance:bit-string max_receive_pdu_size:long-unsigned max_send_pdu_size:long-unsigned
@+ dlms_version_number:unsigned quality_of_service:integer cyphering_info:octet-string
@ sap sap:long-unsigned logical_device_name:octet-string
@ image_info image_to_activate_size:double-long-unsigned image_to_activate_identification:octet-string
@+ image_to_activate_signature:octet-string
@ image_start image_identifier:octet-string image_size:double-long-unsigned
@ image_block image_block_number:double-long-unsigned image_block_value:octet-string
@ season season_profile_name:octet-string season_start:datetime week_name:octet-string
@ week week_profile_name:octet-string monday:unsigned tuesday:unsigned wednesday:unsigned thursday:unsigned
@+ friday:unsigned saturday:unsigned sunday:unsigned
@ day_action start_time:time script_logical_name:logical-name script_selector:long-unsigned
@ day day_id:unsigned day_schedule:array:@day_action
@ action script_logical_name:logical-name script_selector:long-unsigned
@ monitor_action action_up:@action action_down:@action
@ execution_time time:time date:date
@ window start_time:datetime end_time:datetime
@ modem_request request:octet-string response:octet-string
@ modem_request_1 request:octet-string response:octet-string delay_after_response:long-unsigned
@ rings nr_rings_in_window:unsigned nr_rings_out_of_window:unsigned
@ caller caller_id:octet-string call_type:enum
@ destination transport_service:enum:transport destination:octet-string message:enum:message
@ restriction restriction_type:enum:restriction_type restriction_value:any
@ push_object_1 class_id:long-unsigned logical_name:logical-name attribute_index:integer data_index:long-unsigned
@+ restriction:@restriction
@ push_object_2 class_id:long-unsigned logical_name:logical-name attribute_index:integer data_index:long-unsigned
@+ restriction:@restriction columns:array:@capture_object
@ key_info key_info_type:enum:key_info_type key_info_options:any
@ protection_options transaction_id:octet-string originator_system_title:octet-string
@+ recipient_system_title:octet-string other_information:octet-string key_info:@key_info
@ protection protection_type:enum:protection_type protection_options:@protection_options
@ repetition_delay repetition_delay_min:long-unsigned repetition_delay_exponent:long-unsigned
@+ repetition_delay_max:long-unsigned
@ confirmation confirmation_start_date:date-time confirmation_interval:double-long-unsigned
@ ip_option ip_option_type:unsigned ip_option_length:unsigned ip_option_data:octet-string
@ qos precedence:unsigned delay:unsigned reliability:unsigned peak_throughput:unsigned mean_throughput:unsigned
@ gprs_qos default:@qos requested:@qos
@ cell_0 cell_id:long-unsigned location_id:long-unsigned signal_quality:unsigned ber:unsigned
@ cell_1 cell_id:double-long-unsigned location_id:long-unsigned signal_quality:unsigned ber:unsigned mcc:long-unsigned
@+ mnc:long-unsigned channel_number:double-long-unsigned
@ adjacent_0 cell_id:long-unsigned signal_quality:unsigned
@ adjacent_1 cell_id:double-long-unsigned signal_quality:unsigned
@ mapping ref_table_id:unsigned ref_table_mapping:any
@ parameter class_id:long-unsigned logical_name:logical-name attribute_index:integer
@ changed_parameter class_id:long-unsigned logical_name:logical-name attribute_index:integer attribute_value:any
@ certificate certificate_entity:enum:certificate_entity certificate_type:enum:certificate_type
@+ serial_number:octet-string issuer:octet-string subject:octet-string subject_alt_name:octet-string
@ certificate_identification certificate_identification_type:enum certification_identification_options:any
@ wrapped_key key_id:enum:key_id key_wrapped:octet-string
@ agreed_key key_id:enum:key_id key_data:octet-string
@ emergency_profile emergency_profile_id:long-unsigned emergency_activation_time:datetime
@+ emergency_duration:double-long-unsigned
@ limiter_actions action_over_threshold:@action action_under_threshold:@action
@ mbus_capture data_information_block:octet-string value_information_block:octet-string
@ mbus_data data_information_block:octet-string value_information_block:octet-string data:any

1 0 data
  2 value any
3 0 register
  2 value any
  3 scaler_unit @scal_unit
  +1 reset -
4 0 extended_register
  2 value any
  3 scaler_unit @scal_unit
  4 status any
  5 capture_time datetime
  +1 reset -
5 0 demand_register
  2 current_average_value any
  3 last_average_value any
  4 scaler_unit @scal_unit
  5 status any
  6 capture_time datetime
  7 start_time_current datetime
  8 period double-long-unsigned
  9 number_of_periods long-unsigned
  +1 reset -
  +2 next_period -
6 0 register_activation
  2 register_assignment array:@object_definition
  3 mask_list array:@register_act_mask
  4 active_mask octet-string
  +1 add_register @object_definition
  +2 add_mask @register_act_mask
  +3 delete_mask octet-string
7 1 profile_generic
  2 buffer array:any
  3 capture_objects array:@capture_object
  4 capture_period double-long-unsigned
  5 sort_method enum:sort_method
  6 sort_object @capture_object
  7 entries_in_use double-long-unsigned
  8 profile_entries double-long-unsigned
  +1 reset -
  +2 capture -
8 0 clock
  2 time datetime
  3 time_zone long
  4 status unsigned
  5 daylight_savings_begin datetime
  6 daylight_savings_end datetime
  7 daylight_savings_deviation integer
  8 daylight_savings_enabled boolean
  9 clock_base enum:clock_base
  +1 adjust_to_quarter -
  +2 adjust_to_measuring_period -
  +3 adjust_to_minute -
  +4 adjust_to_preset_time -
  +5 preset_adjusting_time @preset_time
  +6 shift_time long
9 0 script_table
  2 scripts array:@script
  +1 execute long-unsigned
10 0 schedule
  2 entries array:@schedule_entry
  +1 enable_disable @schedule_ranges
  +2 insert @schedule_entry
  +3 delete @index_range
11 0 special_days_table
  2 entries array:@special_day
  +1 insert @special_day
  +2 delete long-unsigned
12 1 association_sn
  2 object_list array:@sn_object
  3 access_rights_list array:@sn_access
  +3 read_by_logical_name array:@value_definition
  +5 change_secret octet-string
  +8 reply_to_hls_authentication octet-string
12 2 association_sn < 1
  4 security_setup_reference logical-name
12 3 association_sn < 2
  5 user_list array:@user
  6 current_user @user
  +9 add_user @user
  +10 remove_user @user
12 4 association_sn < 3
15 0 association_ln
  2 object_list array:@ln_object
  3 associated_partners_id @partners
  4 application_context_name any
  5 xdlms_context_info @xdlms_context
  6 authentication_mechanism_name any
  7 lls_secret octet-string
  8 association_status enum:association_status
  +1 reply_to_hls_authentication octet-string
  +2 change_hls_secret octet-string
  +3 add_object @ln_object
  +4 remove_object @ln_object
15 1 association_ln < 0
  7 secret octet-string
  9 security_setup_reference logical-name
15 2 association_ln < 1
  10 user_list array:@user
  11 current_user @user
  +5 add_user @user
  +6 remove_user @user
15 3 association_ln < 2
17 0 sap_assignment
  2 sap_assignment_list array:@sap
  +1 connect_logical_device @sap
18 0 image_transfer
  2 image_block_size double-long-unsigned
  3 image_transferred_blocks_status bit-string
  4 image_first_not_transferred_block_number double-long-unsigned
  5 image_transfer_enabled boolean
  6 image_transfer_status enum:image_status
  7 image_to_activate_info array:@image_info
  +1 image_transfer_initiate @image_start
  +2 image_block_transfer @image_block
  +3 image_verify -
  +4 image_activate -
19 1 iec_local_port_setup
  2 default_mode enum
  3 default_baud enum:baud
  4 prop_baud enum:baud
  5 response_time enum
  6 device_addr octet-string
  7 pass_p1 octet-string
  8 pass_p2 octet-string
  9 pass_w5 octet-string
20 0 activity_calendar
  2 calendar_name_active octet-string
  3 season_profile_active array:@season
  4 week_profile_table_active array:@week
  5 day_profile_table_active array:@day
  6 calendar_name_passive octet-string
  7 season_profile_passive array:@season
  8 week_profile_table_passive array:@week
  9 day_profile_table_passive array:@day
  10 activate_passive_calendar_time datetime
  +1 activate_passive_calendar -
21 0 register_monitor
  2 thresholds array:any
  3 monitored_value @value_definition
  4 actions array:@monitor_action
22 0 single_action_schedule
  2 executed_script @action
  3 type enum
  4 execution_time array:@execution_time
23 0 iec_hdlc_setup
  2 comm_speed enum:baud
  3 window_size_transmit unsigned
  4 window_size_receive unsigned
  5 max_info_field_length_transmit unsigned
  6 max_info_field_length_receive unsigned
  7 inter_octet_time_out long-unsigned
  8 inactivity_time_out long-unsigned
  9 device_address long-unsigned
23 1 iec_hdlc_setup < 0
  5 max_info_field_length_transmit long-unsigned
  6 max_info_field_length_receive long-unsigned
25 0 mbus_slave_port_setup
  2 default_baud enum:baud
  3 avail_baud enum:baud
  4 addr_state enum
  5 bus_address unsigned
27 0 modem_configuration
  2 comm_speed enum:baud
  3 initialization_string array:@modem_request
  4 modem_profile array:octet-string
27 1 modem_configuration < 0
  3 initialization_string array:@modem_request_1
28 0 auto_answer
  2 mode enum
  3 listening_window array:@window
  4 status enum
  5 number_of_calls unsigned
  6 number_of_rings @rings
28 2 auto_answer < 0
  7 list_of_allowed_callers array:@caller
29 2 auto_connect
  2 mode enum
  3 repetitions unsigned
  4 repetition_delay long-unsigned
  5 calling_window array:@window
  6 destination_list array:octet-string
  +1 connect -
40 0 push_setup
  2 push_object_list array:@capture_object
  3 send_destination_and_method @destination
  4 communication_window array:@window
  5 randomisation_start_interval long-unsigned
  6 number_of_retries unsigned
  7 repetition_delay long-unsigned
  +1 push -
40 1 push_setup < 0
  2 push_object_list array:@push_object_1
  8 port_reference logical-name
  9 push_client_sap integer
  10 push_protection_parameters array:@protection
40 2 push_setup < 1
  2 push_object_list array:@push_object_2
  7 repetition_delay @repetition_delay
  11 push_operation_method enum:push_method
  12 confirmation_parameters @confirmation
  13 last_confirmation_date_time date-time
  +2 reset -
41 0 tcp_udp_setup
  2 tcp_udp_port long-unsigned
  3 ip_reference logical-name
  4 mss long-unsigned
  5 nb_of_sim_conn unsigned
  6 inactivity_time_out long-unsigned
42 0 ipv4_setup
  2 dl_reference logical-name
  3 ip_address double-long-unsigned
  4 multicast_ip_address array:double-long-unsigned
  5 ip_options array:@ip_option
  6 subnet_mask double-long-unsigned
  7 gateway_ip_address double-long-unsigned
  8 use_dhcp_flag boolean
  9 primary_dns_address double-long-unsigned
  10 secondary_dns_address double-long-unsigned
  +1 add_mc_ip_address double-long-unsigned
  +2 delete_mc_ip_address double-long-unsigned
  +3 get_nbof_mc_ip_addresses -
43 0 mac_address_setup
  2 mac_address octet-string
44 0 ppp_setup
  2 phy_reference logical-name
  3 lcp_options array:any
  4 ipcp_options array:any
  5 ppp_authentication any
45 0 gprs_modem_setup
  2 apn octet-string
  3 pin_code long-unsigned
  4 quality_of_service @gprs_qos
47 0 gsm_diagnostic
  2 operator visible-string
  3 status enum:gsm_status
  4 cs_attachment enum:cs_attachment
  5 ps_status enum:ps_status
  6 cell_info @cell_0
  7 adjacent_cells array:@adjacent_0
  8 capture_time date-time
47 1 gsm_diagnostic < 0
  6 cell_info @cell_1
  7 adjacent_cells array:@adjacent_1
48 0 ipv6_setup
  2 dl_reference logical-name
  3 address_config_mode enum
  4 unicast_ipv6_addresses array:octet-string
  5 multicast_ipv6_addresses array:octet-string
  6 gateway_ipv6_addresses array:octet-string
  7 primary_dns_address octet-string
  8 secondary_dns_address octet-string
  9 traffic_class unsigned
  10 neighbor_discovery_setup array:any
  +1 add_ipv6_address any
  +2 remove_ipv6_address any
62 1 compact_data
  2 compact_buffer octet-string
  3 capture_objects array:any
  4 template_id unsigned
  5 template_description octet-string
  6 capture_method enum:capture_method
  +1 reset -
  +2 capture -
63 0 status_mapping
  2 status_word any
  3 mapping_table @mapping
64 0 security_setup
  2 security_policy enum:security_policy_0
  3 security_suite enum:security_suite
  4 client_system_title octet-string
  5 server_system_title octet-string
  +1 security_activate enum:security_policy_0
  +2 global_key_transfer array:@wrapped_key
64 1 security_setup < 0
  2 security_policy enum
  6 certificates array:@certificate
  +1 security_activate enum
  +2 key_transfer array:@wrapped_key
  +3 key_agreement array:@agreed_key
  +4 generate_key_pair enum:key_pair
  +5 generate_certificate_request enum:key_pair
  +6 import_certificate octet-string
  +7 export_certificate @certificate_identification
  +8 remove_certificate @certificate_identification
65 0 parameter_monitor
  2 changed_parameter @changed_parameter
  3 capture_time date-time
  4 parameters array:@parameter
  +1 add_parameter @parameter
  +2 delete_parameter @parameter
70 0 disconnect_control
  2 output_state boolean
  3 control_state enum:control_state
  4 control_mode enum
  +1 remote_disconnect -
  +2 remote_reconnect -
71 0 limiter
  2 monitored_value @value_definition
  3 threshold_active any
  4 threshold_normal any
  5 threshold_emergency any
  6 min_over_threshold_duration double-long-unsigned
  7 min_under_threshold_duration double-long-unsigned
  8 emergency_profile @emergency_profile
  9 emergency_profile_group_id_list array:long-unsigned
  10 emergency_profile_active boolean
  11 actions @limiter_actions
72 0 mbus_client
  2 mbus_port_reference logical-name
  3 capture_definition array:@mbus_capture
  4 capture_period double-long-unsigned
  5 primary_address unsigned
  6 identification_number double-long-unsigned
  7 manufacturer_id long-unsigned
  8 version unsigned
  9 device_type unsigned
  10 access_number unsigned
  11 status unsigned
  12 alarm unsigned
  +1 slave_install unsigned
  +2 slave_deinstall -
  +3 capture -
  +4 reset_alarm -
  +5 synchronize_clock -
  +6 data_send array:@mbus_data
  +7 set_encryption_key octet-string
  +8 transfer_key octet-string
72 1 mbus_client < 0
  13 configuration long-unsigned
  14 encryption_key_status enum:mbus_key_status
74 0 mbus_master_port_setup
  2 comm_speed enum:baud
80 0 prime_llc_sscs_setup
  2 service_node_address long-unsigned
  3 base_node_address long-unsigned
  +1 reset -
81 0 prime_physical_layer_counters
  2 phy_stats_crc_incorrect_count long-unsigned
  3 phy_stats_crc_fail_count long-unsigned
  4 phy_stats_tx_drop_count long-unsigned
  5 phy_stats_rx_drop_count long-unsigned
  +1 reset -
82 0 prime_mac_setup
  2 mac_min_switch_search_time unsigned
  3 mac_max_promotion_pdu unsigned
  4 mac_promotion_pdu_tx_period unsigned
  5 mac_beacons_per_frame unsigned
  6 mac_scp_max_tx_attempts unsigned
  7 mac_ctl_re_tx_timer unsigned
  8 mac_max_ctl_re_tx unsigned
83 0 prime_mac_functional_parameters
  2 mac_lnid long
  3 mac_lsid unsigned
  4 mac_sid unsigned
  5 mac_sna octet-string
  6 mac_state enum
  7 mac_scp_length long
  8 mac_node_hierarchy_level unsigned
  9 mac_beacon_slot_count unsigned
  10 mac_beacon_rx_slot unsigned
  11 mac_beacon_tx_slot unsigned
  12 mac_beacon_rx_frequency unsigned
  13 mac_beacon_tx_frequency unsigned
  14 mac_capabilities long-unsigned
84 0 prime_mac_counters
  2 mac_tx_data_pkt_count double-long-unsigned
  3 mac_rx_data_pkt_count double-long-unsigned
  4 mac_tx_ctrl_pkt_count double-long-unsigned
  5 mac_rx_ctrl_pkt_count double-long-unsigned
  6 mac_csma_fail_count double-long-unsigned
  7 mac_csma_ch_busy_count double-long-unsigned
  +1 reset -
85 0 prime_mac_network_administration
  2 mac_list_multicast_entries array:any
  3 mac_list_switch_table array:any
  4 mac_list_direct_table array:any
  5 mac_list_available_switches array:any
  6 mac_list_phy_comm array:any
  +1 reset -
86 0 prime_applications_identification
  2 firmware_version octet-string
  3 vendor_id long-unsigned
  4 product_id long-unsigned
"""
