"""Virtio devices on virtio-mmio (Virtual I/O Device specification 1.2, section 4.2), modern interface only.

A board has eight slots. `transport` answers a slot's registers, `queue` reads what the driver put into its rings, and
one file a device says what it does with it. All of it is compiled code over machine state: a request is done within
the instruction that notifies, so what a guest sees of it is a function of the machine's state, and nothing about
it is logged but bytes from outside.

Drivers are not trusted. Where a ring is, is checked when its queue becomes ready; a descriptor chain is read once,
checked whole and noted as ranges of memory before a byte of it is moved, so a chain that its own data overwrites
changes nothing. A driver that breaks the rules finds the device in DEVICE_NEEDS_RESET: it does nothing more before
the driver resets it.
"""
