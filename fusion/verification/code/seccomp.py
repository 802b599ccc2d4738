"""A system-call filter for bubblewrap: what no answer to a coding question needs, denied.

It shuts what the namespaces leave open: nested user namespaces (a root of one's own), reading
another process's memory, memory that no limit counts, and rarely used kernel interfaces.
"""

import platform
import struct

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_IF_ANY_BIT = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

_ALLOW = 0x7FFF0000
_KILL = 0x80000000
_EPERM = 0x00050001
_ENOSYS = 0x00050026

_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16  # struct seccomp_data
_CLONE_NEWUSER = 0x10000000
_X32 = 0x40000000

# Names and numbers: Linux's unistd.h of each architecture.
_X86_64 = {
    "shmget": 29, "shmat": 30, "semget": 64, "msgget": 68, "ptrace": 101, "personality": 135,
    "pivot_root": 155, "chroot": 161, "acct": 163, "mount": 165, "umount2": 166, "swapon": 167,
    "reboot": 169, "init_module": 175, "quotactl": 179, "mq_open": 240, "kexec_load": 246,
    "add_key": 248, "request_key": 249, "keyctl": 250, "unshare": 272, "perf_event_open": 298,
    "name_to_handle_at": 303, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "finit_module": 313, "memfd_create": 319, "kexec_file_load": 320,
    "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "shmget": 194, "shmat": 196, "semget": 190, "msgget": 186, "ptrace": 117, "personality": 92,
    "pivot_root": 41, "chroot": 51, "acct": 89, "mount": 40, "umount2": 39, "swapon": 224,
    "reboot": 142, "init_module": 105, "quotactl": 60, "mq_open": 180, "kexec_load": 104,
    "add_key": 217, "request_key": 218, "keyctl": 219, "unshare": 97, "perf_event_open": 241,
    "name_to_handle_at": 264, "open_by_handle_at": 265, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "finit_module": 273, "memfd_create": 279, "kexec_file_load": 294,
    "bpf": 280, "userfaultfd": 282,
}  # fmt: skip
# From 424 on the numbers are the same everywhere.
_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "process_madvise": 440, "mount_setattr": 442, "memfd_secret": 447,
}  # fmt: skip
_CLONE3 = 435
# Where no namespace does it, this denies the network and leaving the process group.
_X86_64_CONFINED = {"socket": 41, "setpgid": 109, "setsid": 112}
_AARCH64_CONFINED = {"socket": 198, "setpgid": 154, "setsid": 157}
# AUDIT_ARCH_*, the tables of numbers, and the number of clone.
_MACHINES = {
    "x86_64": (0xC000003E, _X86_64, _X86_64_CONFINED, 56),
    "aarch64": (0xC00000B7, _AARCH64, _AARCH64_CONFINED, 220),
}


def is_known_machine() -> bool:
    """Whether there is a table of system calls for this machine."""
    return platform.machine() in _MACHINES


def filter_program(*, confined: bool = False) -> bytes:
    """The filter as an array of `struct sock_filter`, as `bwrap --seccomp` takes it.

    `confined` denies as well what a sandbox of namespaces has no need to deny.

    clone3 reports "not implemented", so that the C library falls back to clone, whose flags a
    filter can read.
    """
    architecture, table, more, clone = _MACHINES[platform.machine()]
    denied = sorted([*table.values(), *_EVERYWHERE.values(), *(more.values() if confined else ())])
    program = [
        _step(_LOAD, _ARCHITECTURE_AT),
        _step(_IF_EQUAL, architecture, yes=1),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER_AT),
        _step(_IF_AT_LEAST, _X32, no=1),
        _step(_RETURN, _KILL),
        _step(_IF_EQUAL, _CLONE3, no=1),
        _step(_RETURN, _ENOSYS),
        _step(_IF_EQUAL, clone, no=4),
        _step(_LOAD, _FIRST_ARGUMENT_AT),
        _step(_IF_ANY_BIT, _CLONE_NEWUSER, no=1),
        _step(_RETURN, _EPERM),
        _step(_RETURN, _ALLOW),
    ]
    for number in denied:
        program += [_step(_IF_EQUAL, number, no=1), _step(_RETURN, _EPERM)]
    return b"".join([*program, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
    return struct.pack("HBBI", code, yes, no, value)
