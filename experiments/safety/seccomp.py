"""A filter of system calls for boxed programs: what limits of a process do not count, and what box builders use.

Knows Linux's call numbers on the two usual kinds of machine; refuses to know why a program is boxed. Denied calls fail
with EPERM: shared and kernel memory beyond a process's own limit, new user namespaces, other processes' memory, kernel
interfaces that have no business in a computation, and sockets of families that no network namespace holds (vsock).
Those of the internet and the files are the namespaces' matter, not this filter's.
"""

from __future__ import annotations

import platform
import struct

# Call numbers: x86_64 from asm/unistd_64.h, aarch64 from asm-generic/unistd.h; those from 424 on are alike.
_DENIED = {
    "x86_64": {
        **{
            "shmget": 29,
            "semget": 64,
            "msgget": 68,
            "ptrace": 101,
            "personality": 135,
            "pivot_root": 155,
            "chroot": 161,
        },
        **{"mount": 165, "umount2": 166, "io_setup": 206, "mq_open": 240, "add_key": 248, "request_key": 249},
        **{"keyctl": 250, "unshare": 272, "perf_event_open": 298, "setns": 308, "process_vm_readv": 310},
        **{"process_vm_writev": 311, "memfd_create": 319, "bpf": 321, "userfaultfd": 323},
        **{"setsockopt": 54, "setxattr": 188, "lsetxattr": 189, "fsetxattr": 190},
    },
    "aarch64": {
        **{
            "shmget": 194,
            "semget": 190,
            "msgget": 186,
            "ptrace": 117,
            "personality": 92,
            "pivot_root": 41,
            "chroot": 51,
        },
        **{"mount": 40, "umount2": 39, "io_setup": 0, "mq_open": 180, "add_key": 217, "request_key": 218},
        **{"keyctl": 219, "unshare": 97, "perf_event_open": 241, "setns": 268, "process_vm_readv": 270},
        **{"process_vm_writev": 271, "memfd_create": 279, "bpf": 280, "userfaultfd": 282},
        **{"setsockopt": 208, "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7},
    },
}
_DENIED_EVERYWHERE = {
    **{"io_uring_setup": 425, "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "pidfd_getfd": 438},
    **{"mount_setattr": 442, "memfd_secret": 447, "setxattrat": 463},
}
_CLONE = {"x86_64": 56, "aarch64": 220}
_SOCKETS = {"x86_64": (41, 53), "aarch64": (198, 199)}  # socket, socketpair
_FAMILIES = (1, 2, 10)  # Unix (event loops need pairs of them), IPv4, IPv6: network namespaces hold these
_FCNTL = {"x86_64": 72, "aarch64": 25}
_SET_PIPE_SIZE = 1031
_CLONE3 = 435  # its flags lie in memory, where a filter cannot look; the C library then falls back to clone
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NEW_USER_NAMESPACE = 0x10000000
_OTHER_ABI = 0x40000000  # x32 calls on x86_64

# Classic BPF on struct seccomp_data {int nr; u32 architecture; u64 instruction_pointer; u64 args[6]}.
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _MACHINE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
_ALLOW, _KILL, _EPERM, _ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026


def seccomp_filter(machine: str = "") -> bytes | None:
    """The filter as `bwrap --seccomp` reads it, for this machine; None for a kind of machine that is not known here."""
    machine = machine or platform.machine()
    if machine not in _DENIED:
        return None
    steps = [
        *_unless(_MACHINE, _EQUAL, _ARCHITECTURE[machine], _KILL),
        *_when(_NUMBER, _AT_LEAST, _OTHER_ABI, _EPERM),
        *_when(_NUMBER, _EQUAL, _CLONE3, _ENOSYS),
    ]
    for number in sorted({*_DENIED[machine].values(), *_DENIED_EVERYWHERE.values()}):
        steps += _when(_NUMBER, _EQUAL, number, _EPERM)
    steps += _in_call(_CLONE[machine], _when(_FIRST_ARGUMENT, _ANY_BIT, _NEW_USER_NAMESPACE, _EPERM))
    steps += _in_call(_FCNTL[machine], _when(_SECOND_ARGUMENT, _EQUAL, _SET_PIPE_SIZE, _EPERM))
    for number in _SOCKETS[machine]:
        steps += _in_call(number, _unless_among(_FIRST_ARGUMENT, _FAMILIES, _EPERM))
    return b"".join([*steps, _step(_RETURN, _ALLOW)])


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _when(offset: int, test: int, value: int, verdict: int) -> list[bytes]:
    """Return `verdict` where the word at `offset` passes the test."""
    return [_step(_LOAD, offset), _step(test, value, 0, 1), _step(_RETURN, verdict)]


def _unless(offset: int, test: int, value: int, verdict: int) -> list[bytes]:
    return [_step(_LOAD, offset), _step(test, value, 1, 0), _step(_RETURN, verdict)]


def _unless_among(offset: int, values: tuple[int, ...], verdict: int) -> list[bytes]:
    """Return `verdict` where the word at `offset` is none of `values`."""
    tests = [_step(_EQUAL, value, left) for left, value in zip(range(len(values), 0, -1), values, strict=True)]
    return [_step(_LOAD, offset), *tests, _step(_RETURN, verdict)]


def _in_call(number: int, steps: list[bytes]) -> list[bytes]:
    """Go through steps in one system call alone."""
    return [_step(_LOAD, _NUMBER), _step(_EQUAL, number, 0, len(steps)), *steps]
