"""A board on files: power, boot loader, slots and init, as a process. The software under test cannot tell."""
