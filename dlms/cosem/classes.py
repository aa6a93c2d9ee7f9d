"""The interface classes as a table: attributes and methods by number, each with its name and type (BB 4.3 to 4.9).

The table is text, read when first asked for. A line `class version name` opens a class; `n name type` is an attribute
and `+n name type` a method with the type of its parameter (`-` for the integer 0 that stands for "nothing").
Attribute 1 is the logical name everywhere and is not repeated. Types are those of A-XDR, `any` for a choice, `data` for
whatever is measured; `array`, `structure` and `enum` stand for the class's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from dlms.axdr import Tag

_TABLE = """
1 0 data
  2 value any
3 0 register
  2 value any
  3 scaler_unit scal_unit
  +1 reset -
4 0 extended_register
  2 value any
  3 scaler_unit scal_unit
  4 status any
  5 capture_time octet-string
  +1 reset -
5 0 demand_register
  2 current_average_value any
  3 last_average_value any
  4 scaler_unit scal_unit
  5 status any
  6 capture_time octet-string
  7 start_time_current octet-string
  8 period double-long-unsigned
  9 number_of_periods long-unsigned
  +1 reset -
  +2 next_period -
6 0 register_activation
  2 register_assignment array
  3 mask_list array
  4 active_mask octet-string
  +1 add_register structure
  +2 add_mask structure
  +3 delete_mask octet-string
7 1 profile_generic
  2 buffer array
  3 capture_objects array
  4 capture_period double-long-unsigned
  5 sort_method enum
  6 sort_object structure
  7 entries_in_use double-long-unsigned
  8 profile_entries double-long-unsigned
  +1 reset -
  +2 capture -
8 0 clock
  2 time octet-string
  3 time_zone long
  4 status unsigned
  5 daylight_savings_begin octet-string
  6 daylight_savings_end octet-string
  7 daylight_savings_deviation integer
  8 daylight_savings_enabled boolean
  9 clock_base enum
  +1 adjust_to_quarter -
  +2 adjust_to_measuring_period -
  +3 adjust_to_minute -
  +4 adjust_to_preset_time -
  +5 preset_adjusting_time structure
  +6 shift_time long
9 0 script_table
  2 scripts array
  +1 execute long-unsigned
10 0 schedule
  2 entries array
  +1 enable_disable structure
  +2 insert structure
  +3 delete structure
11 0 special_days_table
  2 entries array
  +1 insert structure
  +2 delete long-unsigned
12 4 association_sn
  2 object_list array
  3 access_rights_list array
  4 security_setup_reference octet-string
  5 user_list array
  6 current_user structure
  +3 read_by_logical_name array
  +5 change_secret octet-string
  +8 reply_to_hls_authentication octet-string
  +9 add_user structure
  +10 remove_user structure
15 0 association_ln
  2 object_list array
  3 associated_partners_id structure
  4 application_context_name any
  5 xdlms_context_info structure
  6 authentication_mechanism_name any
  7 lls_secret octet-string
  8 association_status enum
  +1 reply_to_hls_authentication octet-string
  +2 change_hls_secret octet-string
  +3 add_object structure
  +4 remove_object structure
15 1 association_ln
  2 object_list array
  3 associated_partners_id structure
  4 application_context_name any
  5 xdlms_context_info structure
  6 authentication_mechanism_name any
  7 secret octet-string
  8 association_status enum
  9 security_setup_reference octet-string
  +1 reply_to_hls_authentication octet-string
  +2 change_hls_secret octet-string
  +3 add_object structure
  +4 remove_object structure
15 3 association_ln
  2 object_list array
  3 associated_partners_id structure
  4 application_context_name any
  5 xdlms_context_info structure
  6 authentication_mechanism_name any
  7 secret octet-string
  8 association_status enum
  9 security_setup_reference octet-string
  10 user_list array
  11 current_user structure
  +1 reply_to_hls_authentication octet-string
  +2 change_hls_secret octet-string
  +3 add_object structure
  +4 remove_object structure
  +5 add_user structure
  +6 remove_user structure
17 0 sap_assignment
  2 sap_assignment_list array
  +1 connect_logical_device structure
18 0 image_transfer
  2 image_block_size double-long-unsigned
  3 image_transferred_blocks_status bit-string
  4 image_first_not_transferred_block_number double-long-unsigned
  5 image_transfer_enabled boolean
  6 image_transfer_status enum
  7 image_to_activate_info array
  +1 image_transfer_initiate structure
  +2 image_block_transfer structure
  +3 image_verify -
  +4 image_activate -
20 0 activity_calendar
  2 calendar_name_active octet-string
  3 season_profile_active array
  4 week_profile_table_active array
  5 day_profile_table_active array
  6 calendar_name_passive octet-string
  7 season_profile_passive array
  8 week_profile_table_passive array
  9 day_profile_table_passive array
  10 activate_passive_calendar_time octet-string
  +1 activate_passive_calendar -
21 0 register_monitor
  2 thresholds array
  3 monitored_value structure
  4 actions array
22 0 single_action_schedule
  2 executed_script structure
  3 type enum
  4 execution_time array
23 1 iec_hdlc_setup
  2 comm_speed enum
  3 window_size_transmit unsigned
  4 window_size_receive unsigned
  5 max_info_field_length_transmit long-unsigned
  6 max_info_field_length_receive long-unsigned
  7 inter_octet_time_out long-unsigned
  8 inactivity_time_out long-unsigned
  9 device_address long-unsigned
40 0 push_setup
  2 push_object_list array
  3 send_destination_and_method structure
  4 communication_window array
  5 randomisation_start_interval long-unsigned
  6 number_of_retries unsigned
  7 repetition_delay long-unsigned
  +1 push -
40 2 push_setup
  2 push_object_list array
  3 send_destination_and_method structure
  4 communication_window array
  5 randomisation_start_interval long-unsigned
  6 number_of_retries unsigned
  7 repetition_delay structure
  8 port_reference octet-string
  9 push_client_sap integer
  10 push_protection_parameters array
  11 push_operation_method enum
  12 confirmation_parameters structure
  13 last_confirmation_date_time date-time
  +1 push -
  +2 reset -
64 0 security_setup
  2 security_policy enum
  3 security_suite enum
  4 client_system_title octet-string
  5 server_system_title octet-string
  +1 security_activate enum
  +2 global_key_transfer array
64 1 security_setup
  2 security_policy enum
  3 security_suite enum
  4 client_system_title octet-string
  5 server_system_title octet-string
  6 certificates array
  +1 security_activate enum
  +2 key_transfer array
  +3 key_agreement array
  +4 generate_key_pair enum
  +5 generate_certificate_request enum
  +6 import_certificate octet-string
  +7 export_certificate structure
  +8 remove_certificate structure
70 0 disconnect_control
  2 output_state boolean
  3 control_state enum
  4 control_mode enum
  +1 remote_disconnect -
  +2 remote_reconnect -
71 0 limiter
  2 monitored_value structure
  3 threshold_active any
  4 threshold_normal any
  5 threshold_emergency any
  6 min_over_threshold_duration double-long-unsigned
  7 min_under_threshold_duration double-long-unsigned
  8 emergency_profile structure
  9 emergency_profile_group_id_list array
  10 emergency_profile_active boolean
  11 actions structure
72 1 mbus_client
  2 mbus_port_reference octet-string
  3 capture_definition array
  4 capture_period double-long-unsigned
  5 primary_address unsigned
  6 identification_number double-long-unsigned
  7 manufacturer_id long-unsigned
  8 version unsigned
  9 device_type unsigned
  10 access_number unsigned
  11 status unsigned
  12 alarm unsigned
  13 configuration long-unsigned
  14 encryption_key_status enum
  +1 slave_install unsigned
  +2 slave_deinstall -
  +3 capture -
  +4 reset_alarm -
  +5 synchronize_clock -
  +6 data_send array
  +7 set_encryption_key octet-string
  +8 transfer_key octet-string
"""

_TAGS = {
    "boolean": Tag.BOOLEAN, "bit-string": Tag.BIT_STRING, "double-long": Tag.DOUBLE_LONG,
    "double-long-unsigned": Tag.DOUBLE_LONG_UNSIGNED, "octet-string": Tag.OCTET_STRING, "integer": Tag.INTEGER,
    "long": Tag.LONG, "unsigned": Tag.UNSIGNED, "long-unsigned": Tag.LONG_UNSIGNED, "enum": Tag.ENUM,
    "array": Tag.ARRAY, "structure": Tag.STRUCTURE, "scal_unit": Tag.STRUCTURE, "date-time": Tag.DATE_TIME,
    "-": Tag.INTEGER,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Member:
    """An attribute or a method. `type_name` as the table has it."""

    name: str
    type_name: str

    @property
    def tag(self) -> Tag | None:
        """The tag that a value must have; None for a choice."""
        return _TAGS.get(self.type_name)


@dataclass(frozen=True, slots=True)
class InterfaceClass:
    """One version of one interface class."""

    class_id: int
    version: int
    name: str
    attributes: dict[int, Member]
    methods: dict[int, Member]


def interface_class(class_id: int, version: int | None = None) -> InterfaceClass | None:
    """The class, in the newest version known here that is not newer than `version`; None for an unknown class."""
    versions = _classes().get(class_id)
    if not versions:
        return None
    fit = [number for number in versions if version is None or number <= version]
    return versions[max(fit) if fit else min(versions)]


def all_classes() -> list[InterfaceClass]:
    """Every class and version of the table."""
    return [found for versions in _classes().values() for found in versions.values()]


def attribute_name(class_id: int, attribute: int, version: int | None = None) -> str:
    """The attribute's name, `attribute_9` when the table does not have it."""
    if attribute == 1:
        return "logical_name"
    found = interface_class(class_id, version)
    member = found.attributes.get(attribute) if found else None
    return member.name if member else f"attribute_{attribute}"


@cache
def _classes() -> dict[int, dict[int, InterfaceClass]]:
    classes: dict[int, dict[int, InterfaceClass]] = {}
    current: InterfaceClass | None = None
    for line in _TABLE.strip().splitlines():
        first, second, third = line.split()
        if not line.startswith(" "):
            current = InterfaceClass(int(first), int(second), third, {1: Member("logical_name", "octet-string")}, {})
            classes.setdefault(current.class_id, {})[current.version] = current
        elif current is not None and first.startswith("+"):
            current.methods[int(first)] = Member(second, third)
        elif current is not None:
            current.attributes[int(first)] = Member(second, third)
    return classes
