"""Makes guests from the packages of the user's own Debian mirror: a kernel, an initramfs and a disk.

mirror -> apt (what, and from where) -> tree (the files) -> contents (what is added to them) -> cpio, disk (images).
Nothing of a package is ever run: neither its programs nor its maintainer scripts. No step needs root.
"""
