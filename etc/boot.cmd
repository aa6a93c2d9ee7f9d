# U-Boot script: chooses the slot to boot. RAUC's variables and policy, shared with dcu-update.
#
#   BOOT_ORDER="A B"     slots to try, first to last
#   BOOT_<slot>_LEFT     attempts left; counted down and saved before the attempt is made
#   dcu_boots            counts the starts, and goes to the kernel as dcu.boots=: dcu-update compares it with what it
#                        finds in the environment, and so knows that both use the same one
#
# Attempts are at most 9: setexpr counts in hexadecimal, test compares decimals. No attempts left anywhere: the slots of
# the order get theirs back and the first one is tried, because a board that boots something beats one that waits for a
# truck. A slot that cannot be loaded resets the board: its attempt is counted, the next start tries again or another.
#
# A recovery system is a third slot, R, the last one of the order: set boot_part_R, and recovery = true in
# dcu-update.toml.
#
# mkimage -A arm -T script -C none -d boot.cmd boot.scr

# What saves the variables; a board that keeps them in a file sets it to its own export and write.
test -n "${boot_save}" || setenv boot_save saveenv
test -n "${boot_tries}" || setenv boot_tries 3
test -n "${boot_dev}" || setenv boot_dev "mmc 0"
test -n "${boot_disk}" || setenv boot_disk /dev/mmcblk0p
test -n "${boot_part_A}" || setenv boot_part_A 2
test -n "${boot_part_B}" || setenv boot_part_B 3

test -n "${BOOT_ORDER}" || setenv BOOT_ORDER "A B"
test -n "${BOOT_A_LEFT}" || setenv BOOT_A_LEFT ${boot_tries}
test -n "${BOOT_B_LEFT}" || setenv BOOT_B_LEFT 0
test -z "${boot_part_R}" || test -n "${BOOT_R_LEFT}" || setenv BOOT_R_LEFT ${boot_tries}
test -n "${dcu_boots}" || setenv dcu_boots 0

# The shell of U-Boot has neither break nor functions: what is run more than once is a variable.
setenv boot_choose 'for slot in ${BOOT_ORDER}; do if test -n "${boot_slot}"; then true; elif test "${slot}" = "A" && test ${BOOT_A_LEFT} -gt 0; then setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1; setenv boot_slot A; setenv boot_part ${boot_part_A}; elif test "${slot}" = "B" && test ${BOOT_B_LEFT} -gt 0; then setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1; setenv boot_slot B; setenv boot_part ${boot_part_B}; elif test "${slot}" = "R" && test -n "${boot_part_R}" && test ${BOOT_R_LEFT} -gt 0; then setexpr BOOT_R_LEFT ${BOOT_R_LEFT} - 1; setenv boot_slot R; setenv boot_part ${boot_part_R}; fi; done'

setenv boot_slot
run boot_choose

if test -z "${boot_slot}"; then
  echo "no slot has attempts left: starting over"
  for slot in ${BOOT_ORDER}; do
    setenv BOOT_${slot}_LEFT ${boot_tries}
  done
  run boot_choose
fi

if test -z "${boot_slot}"; then
  echo "the boot order names no slot: trying all"
  setenv BOOT_ORDER "A B"
  setenv BOOT_A_LEFT ${boot_tries}
  setenv BOOT_B_LEFT ${boot_tries}
  run boot_choose
fi

# When nothing can be saved any more, nothing can be updated either: the slot that was good goes on, uncounted.
setexpr dcu_boots ${dcu_boots} + 1
setenv boot_choose
run boot_save || setenv dcu_boots none

echo "starting slot ${boot_slot}"
setenv bootargs "${bootargs_base} root=${boot_disk}${boot_part} rootwait ro rauc.slot=${boot_slot} dcu.boots=${dcu_boots}"
load ${boot_dev}:${boot_part} ${kernel_addr_r} /boot/zImage || reset
load ${boot_dev}:${boot_part} ${fdt_addr_r} /boot/board.dtb || reset
bootz ${kernel_addr_r} - ${fdt_addr_r}
reset
