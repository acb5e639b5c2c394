# Where things lie on a card, in sectors of 512 bytes. Read by the script that builds the image and by the initramfs.
#
# A card in the field keeps its layout for ever: change nothing here. docs/decisions/0016 says why it is as it is.
#
#    1  8 MB    FAT   which boot partition counts (autoboot.txt), and what the owner gives: porin.toml, keys, network
#    2  36 MB   FAT   boot A: firmware, kernel, initramfs
#    3  36 MB   FAT   boot B
#    4                extended, up to the end of the card
#    5  64 MB         root A, squashfs
#    6  64 MB         root B
#    7  the rest      data, ext4
#
# The image ends where the content of root A does: what comes after it is made when it boots for the first time.
SIGNATURE=706f7269
CONFIG_START=2048 CONFIG_SIZE=16384
BOOT_SIZE=73728 BOOT_A_START=18432 BOOT_B_START=92160
EXTENDED_START=165888
ROOT_SIZE=131072 ROOT_A_START=167936 ROOT_B_START=301056
DATA_START=434176
# A logical partition is described in a sector of its own, which lies 1 MB before it.
ROOT_A_RECORD=165888 ROOT_B_RECORD=299008 DATA_RECORD=432128
# The smallest card, 480 MB, has room for 268 MB of data.
CARD_SECTORS=983040
