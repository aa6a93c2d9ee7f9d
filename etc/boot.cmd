# U-Boot script: chooses the slot to boot. RAUC's variables and policy, shared with dcu-update.
#
#   BOOT_ORDER="A B"     slots to try, first to last
#   BOOT_<slot>_LEFT     attempts left; counted down and saved before the attempt is made
#
# Attempts are at most 9: setexpr counts in hexadecimal, test compares decimals. No attempts left anywhere: all slots
# get theirs back and the first one is tried, because a board that boots something beats one that waits for a truck.
# A slot that cannot be loaded resets the board: its attempt is counted, the next start tries again or the other one.
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

setenv boot_slot
for slot in ${BOOT_ORDER}; do
  if test -n "${boot_slot}"; then
    # found already; the shell of U-Boot has no break
    true
  elif test "${slot}" = "A" && test ${BOOT_A_LEFT} -gt 0; then
    setexpr BOOT_A_LEFT ${BOOT_A_LEFT} - 1
    setenv boot_slot A
    setenv boot_part ${boot_part_A}
  elif test "${slot}" = "B" && test ${BOOT_B_LEFT} -gt 0; then
    setexpr BOOT_B_LEFT ${BOOT_B_LEFT} - 1
    setenv boot_slot B
    setenv boot_part ${boot_part_B}
  fi
done

if test -z "${boot_slot}"; then
  echo "no slot has attempts left: starting over"
  setenv BOOT_A_LEFT ${boot_tries}
  setenv BOOT_B_LEFT ${boot_tries}
  if test "${BOOT_ORDER}" = "A"; then
    setenv BOOT_B_LEFT 0
  elif test "${BOOT_ORDER}" = "B"; then
    setenv BOOT_A_LEFT 0
  fi
  run boot_save
  reset
fi

# When nothing can be saved any more, nothing can be updated either: the slot that was good goes on, uncounted.
run boot_save || echo "the attempt cannot be counted"

echo "starting slot ${boot_slot}"
setenv bootargs "${bootargs_base} root=${boot_disk}${boot_part} rootwait ro rauc.slot=${boot_slot}"
load ${boot_dev}:${boot_part} ${kernel_addr_r} /boot/zImage || reset
load ${boot_dev}:${boot_part} ${fdt_addr_r} /boot/board.dtb || reset
bootz ${kernel_addr_r} - ${fdt_addr_r}
reset
