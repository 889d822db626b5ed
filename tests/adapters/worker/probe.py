"""An engine that tries to break out: each attempt is named, and `count` runs the one that the request names.

It answers 0 for what was denied, 1 for what succeeded, and 2 where the kernel or the machine has no such thing.
An attempt that the kernel ends the worker for is never answered.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from vestal.backend import BackendOptions, CountRequest, GenerateRequest, GenerateRequestV2
from vestal.values import Capabilities
from vestal_adapters.worker import sandbox
from vestal_adapters.worker.engine import Engine, Progress, StepOutput

DENIED, ALLOWED, ABSENT = 0, 1, 2

libc = ctypes.CDLL(None, use_errno=True)
INTEL = platform.machine() == "x86_64"


class ProbeOptions(BackendOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`without` names a layer to leave out, `lacking` one that the kernel lacks; `target` is the test's directory.

    `on_gpu` asks for a GPU's profile; `without_gpu` names a part of it to leave out: a call or a path, say.
    """

    on_gpu: bool = False
    without_gpu: str = ""
    without: str = ""
    lacking: str = ""
    target: str = ""
    uid: int = -1
    threaded: bool = False


class Probe(Engine):
    Options = ProbeOptions

    def __init__(self, options: ProbeOptions) -> None:
        global target
        target = Path(options.target)
        # As if the layer had been forgotten: the probe must then report what it was there for.
        if options.without:
            del sandbox.LAYERS[options.without]
        if options.lacking:
            sandbox.LAYERS[options.lacking] = _not_there
        sandbox.gpu._CONTROL = (Path("/dev/zero"),)  # a device that every machine has
        if options.without_gpu:
            _forget(options.without_gpu)
        if options.threaded:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        self.options = options

    @property
    def on_gpu(self) -> bool:
        return self.options.on_gpu

    def open(self, progress: Progress) -> Sequence[int]:
        global held, model
        held = os.open(target / "held", os.O_RDWR | os.O_CREAT, 0o666)
        model = os.open(target / "model", os.O_RDONLY)
        foreign = os.open(target / "foreign", os.O_RDONLY)
        if self.options.uid >= 0:
            os.setgroups([])
            os.setgid(self.options.uid)
            os.setuid(self.options.uid)
        return (model, foreign)

    def load(self, progress: Progress) -> Capabilities:
        return Capabilities(count=True, slots=1)

    def count(self, request: CountRequest) -> int:
        assert request.messages is not None
        try:
            ATTEMPTS[request.messages[0].content]()
        except (OSError, RuntimeError, ValueError) as exc:  # RuntimeError: a thread that could not be started
            return ABSENT if isinstance(exc, OSError) and exc.errno in (errno.ENOENT, errno.ENOSYS) else DENIED
        return ALLOWED

    def submit(self, job: int, request: GenerateRequest | GenerateRequestV2) -> None:
        raise NotImplementedError

    def cancel(self, job: int) -> None:
        pass

    @property
    def busy(self) -> bool:
        return False

    def step(self) -> StepOutput:
        return []

    def close(self) -> None:
        pass


def _not_there(terms: object) -> str:
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))


def _forget(part: str) -> None:
    """Leave out what the profile of a GPU has under this name."""
    gpu = sandbox.gpu
    table = {name: getattr(gpu, name) for name in ("CALLS", "NOT_THERE", "IOCTL_EQUAL", "IOCTL_MASKED", "SOCKET")}
    if part in (*table["CALLS"], *table["NOT_THERE"]):
        for name in ("CALLS", "NOT_THERE"):
            setattr(gpu, name, {call: numbers for call, numbers in table[name].items() if call != part})
    elif part in table:
        setattr(gpu, part, (1023, 1023) if part == "SOCKET" else ())  # 1023: no call has this number
    else:
        all_of_it = gpu.places()
        gpu.places = lambda: {path: rights for path, rights in all_of_it.items() if str(path) != part}


target = Path()
held = model = -1

Attempt = Callable[[], object]
ATTEMPTS: dict[str, Attempt] = {}


def attempt(function: Attempt) -> Attempt:
    ATTEMPTS[function.__name__] = function
    return function


def call(x86_64: int, aarch64: int, *arguments: int | bytes | None) -> int:
    """A system call by number; `OSError` where it fails."""
    libc.syscall.restype = ctypes.c_long
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(libc.syscall(ctypes.c_long(x86_64 if INTEL else aarch64), *given))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def ask(fd: int, request: int) -> None:
    """An ioctl; that the file does not know it, or wants an argument, is an answer of the file's own."""
    try:
        call(16, 29, fd, request, 0)
    except OSError as exc:
        if exc.errno not in (errno.ENOTTY, errno.EFAULT):
            raise


def listener() -> socket.socket:
    """On an abstract name."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    made.bind(f"\0vestal-probe-{os.getpid()}")
    made.listen()
    return made


def of_a_thread(name: str, flags: int) -> None:
    """Open a file that procfs has of each thread."""
    os.close(os.open(f"/proc/self/task/{threading.get_native_id()}/{name}", flags))


# --- allowed on purpose: the probe would otherwise pass in a worker that can do nothing at all ----------------------


@attempt
def ok_read_the_model() -> None:
    os.close(os.open(f"/proc/self/fd/{model}", os.O_RDONLY))
    Path(target / "model").read_bytes()


@attempt
def ok_import_late() -> None:
    import colorsys  # a module that nothing has imported yet
    import encodings.mac_turkish

    assert colorsys
    assert encodings.mac_turkish


@attempt
def ok_start_a_thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


@attempt
def ok_signal_itself() -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)
    os.kill(os.getpid(), signal.SIGUSR1)


@attempt
def ok_take_much_memory() -> None:
    try:
        bytearray(2**29)
    except MemoryError:
        raise OSError(errno.ENOMEM, "as it should be") from None


# --- files ----------------------------------------------------------------------------------------------------------


@attempt
def read_passwd() -> None:
    Path("/etc/passwd").read_bytes()


@attempt
def list_home() -> None:
    os.listdir(os.path.expanduser("~"))  # noqa: PTH111, PTH208  # the plainest call


@attempt
def list_the_models_directory() -> None:
    os.listdir(target)  # noqa: PTH208  # the plainest call


@attempt
def read_a_neighbour_of_the_model() -> None:
    (target / "secret").read_bytes()


@attempt
def read_with_root_s_rights() -> None:
    (target / "foreign").read_bytes()  # of another user's, and let through by Landlock


@attempt
def read_environment_of_init() -> None:
    Path("/proc/1/environ").read_bytes()


@attempt
def read_memory_of_the_parent() -> None:
    os.open(f"/proc/{os.getppid()}/mem", os.O_RDONLY)


@attempt
def read_own_environment() -> None:
    Path("/proc/self/environ").read_bytes()


@attempt
def read_own_memory() -> None:
    of_a_thread("mem", os.O_RDONLY)


@attempt
def write_own_memory() -> None:
    of_a_thread("mem", os.O_WRONLY)


@attempt
def list_everybody_s_sockets() -> None:
    of_a_thread("net/unix", os.O_RDONLY)


@attempt
def write_a_file_in_tmp() -> None:
    fd, name = tempfile.mkstemp(dir="/tmp")
    os.close(fd)
    os.unlink(name)  # noqa: PTH108  # the plainest call


@attempt
def write_the_model() -> None:
    os.open(target / "model", os.O_WRONLY)


@attempt
def write_the_library() -> None:
    os.open(os.__file__, os.O_WRONLY)


@attempt
def list_devices() -> None:
    os.listdir("/dev")  # noqa: PTH208  # the plainest call


@attempt
def grow_a_held_file() -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    os.write(held, b"prompt")


@attempt
def truncate_a_held_file() -> None:
    os.ftruncate(held, 0)


@attempt
def remove_a_file() -> None:
    (target / "secret").unlink()


@attempt
def remove_a_file_the_newer_way() -> None:
    call(263, 35, -100, bytes(target / "secret"), 0)  # unlinkat


@attempt
def rename_a_file() -> None:
    (target / "secret").rename(target / "public")


@attempt
def make_a_directory() -> None:
    (target / "made").mkdir()


@attempt
def make_a_symbolic_link() -> None:
    (target / "link").symlink_to("/etc/passwd")


@attempt
def make_a_hard_link() -> None:
    os.link(target / "model", target / "again")  # the plainest call


@attempt
def change_a_mode() -> None:
    os.chmod(target / "model", 0o777)  # noqa: PTH101  # the plainest call, and it must fail


@attempt
def change_times() -> None:
    os.utime(target / "model")


@attempt
def change_directory() -> None:
    os.chdir("/")


@attempt
def watch_files() -> None:
    call(294, 26, 0)  # inotify_init1


@attempt
def open_many_descriptors() -> None:
    taken: list[int] = []
    try:
        while len(taken) < 300:
            taken.append(os.dup(held))
    finally:
        for fd in taken:
            os.close(fd)


# --- sockets --------------------------------------------------------------------------------------------------------


@attempt
def socket_inet() -> None:
    socket.socket(socket.AF_INET, socket.SOCK_STREAM)


@attempt
def bind_a_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind(("127.0.0.1", 0))


@attempt
def socket_udp() -> None:
    socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)


@attempt
def socket_unix() -> None:
    socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


@attempt
def socket_unix_datagram() -> None:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # could send to a name without a connection


@attempt
def socket_unix_raw() -> None:
    call(41, 198, socket.AF_UNIX, socket.SOCK_RAW, 0)  # a datagram one by another name


@attempt
def make_a_socket_s_file() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.bind(str(target / "sock"))


@attempt
def connect_by_name() -> None:
    with listener() as there, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as here:
        here.connect(there.getsockname())


@attempt
def accept_a_connection() -> None:
    with listener() as sock:
        sock.setblocking(False)
        with suppress(BlockingIOError):  # nobody waits
            call(288, 242, sock.fileno(), None, None, 0)


@attempt
def socket_netlink() -> None:
    socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)


@attempt
def socket_pair() -> None:
    socket.socketpair()


@attempt
def connect_elsewhere() -> None:
    call(42, 203, 1, struct.pack("=H4s", socket.AF_UNIX, b"\0abc"), 6)  # connect on whatever there is


@attempt
def pass_a_descriptor() -> None:
    call(46, 211, 1, None, 0)  # sendmsg


# --- processes and programs -----------------------------------------------------------------------------------------


@attempt
def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


@attempt
def clone_a_process() -> None:
    if call(56, 220, signal.SIGCHLD, 0, 0, 0, 0) == 0:
        os._exit(0)


@attempt
def clone_a_namespace() -> None:
    if call(56, 220, 0x10000000 | signal.SIGCHLD, 0, 0, 0, 0) == 0:  # CLONE_NEWUSER
        os._exit(0)


@attempt
def clone3_a_process() -> None:
    arguments = struct.pack("=8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    if call(435, 435, arguments, len(arguments)) == 0:
        os._exit(0)


@attempt
def kill_the_parent_gently() -> None:
    os.kill(os.getppid(), 0)


@attempt
def kill_everybody_gently() -> None:
    os.kill(-1, 0)


@attempt
def signal_by_what_arrives_at_a_descriptor() -> None:
    """The kernel sends any signal to any process of this user, if it is told whose the descriptor is."""
    fcntl.fcntl(held, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(held, fcntl.F_SETOWN, os.getppid())


@attempt
def signal_by_pidfd() -> None:
    call(434, 434, os.getppid(), 0)  # pidfd_open


@attempt
def set_the_namespace() -> None:
    call(308, 268, model, 0)


@attempt
def become_somebody() -> None:
    call(105, 146, os.getuid())  # setuid to oneself needs no right


@attempt
def change_the_limits() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_STACK)
    resource.setrlimit(resource.RLIMIT_STACK, (soft, hard))


@attempt
def become_dumpable() -> None:
    before = libc.prctl(3, 0, 0, 0, 0)
    if libc.prctl(4, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
    libc.prctl(4, before, 0, 0, 0)


@attempt
def renice() -> None:
    os.nice(1)


# --- the kernel's wider surface -------------------------------------------------------------------------------------


@attempt
def mount() -> None:
    call(165, 40, b"none", b"/nonexistent", b"tmpfs", 0, None)  # where it is allowed, nothing must come of it


@attempt
def bpf() -> None:
    call(321, 280, 0, bytes(128), 128)


@attempt
def perf_event_open() -> None:
    call(298, 241, struct.pack("=II", 1, 128) + bytes(120), 0, -1, -1, 0)


@attempt
def io_uring_setup() -> None:
    call(425, 425, 4, bytes(128))


@attempt
def userfaultfd() -> None:
    call(323, 282, 1)  # UFFD_USER_MODE_ONLY


@attempt
def keyctl() -> None:
    call(250, 219, 0, -3, 1)  # the session's keyring


@attempt
def epoll() -> None:
    call(291, 20, 0)


@attempt
def seccomp_again() -> None:
    call(317, 277, 1, 0, None)


@attempt
def ask_for_flags_of_a_file() -> None:
    ask(held, 0x8008_6601)


@attempt
def type_into_a_terminal() -> None:
    ask(held, 0x5412)


@attempt
def ask_a_screen() -> None:
    ask(held, 0x4600)


@attempt
def ask_for_tests_of_unified_memory() -> None:
    ask(held, 200)


@attempt
def ioctl_on_a_device() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    call(16, 29, null, 0x1261, 0)


# --- code that was not there ----------------------------------------------------------------------------------------


@attempt
def map_executable_memory() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


@attempt
def map_the_model_executable() -> None:
    mmap.mmap(model, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


@attempt
def make_memory_executable() -> None:
    page = mmap.mmap(-1, 4096)
    start = ctypes.addressof(ctypes.c_char.from_buffer(page))
    call(10, 226, start, 4096, 0x5)


@attempt
def memfd() -> None:
    os.memfd_create("code")


# --- what an engine on a GPU may do, and no other -------------------------------------------------------------------


@attempt
def gpu_open_a_device() -> None:
    os.close(os.open("/dev/zero", os.O_RDWR))


@attempt
def gpu_ask_a_device() -> None:
    device = os.open("/dev/zero", os.O_RDWR)
    ask(device, 0xC020_462A)
    os.close(device)


@attempt
def gpu_ask_the_driver() -> None:
    ask(held, 0xC020_462A)


@attempt
def gpu_ask_unified_memory() -> None:
    ask(held, 0x4B)


@attempt
def gpu_start_unified_memory() -> None:
    ask(held, 0x3000_0001)


@attempt
def gpu_make_an_eventfd() -> None:
    os.close(call(290, 19, 0, 0))


@attempt
def gpu_make_a_pipe() -> None:
    for fd in os.pipe():
        os.close(fd)


@attempt
def gpu_listen_without_being_reached() -> None:
    listener().close()


@attempt
def gpu_name_a_thread() -> None:
    of_a_thread("comm", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


@attempt
def gpu_read_maps() -> None:
    Path("/proc/self/maps").read_bytes()


@attempt
def gpu_read_status() -> None:
    Path("/proc/self/status").read_bytes()


@attempt
def gpu_read_cpuinfo() -> None:
    Path("/proc/cpuinfo").read_bytes()


@attempt
def gpu_read_devices() -> None:
    Path("/proc/devices").read_bytes()


@attempt
def gpu_read_the_least_address() -> None:
    Path("/proc/sys/vm/mmap_min_addr").read_bytes()


@attempt
def gpu_read_processors() -> None:
    Path("/sys/devices/system/cpu/online").read_bytes()


# --- states that can only be looked at ------------------------------------------------------------------------------


def _state(option: int, wanted: int) -> None:
    if libc.prctl(option, 0, 0, 0, 0) == wanted:
        raise PermissionError


@attempt
def gain_privileges_by_a_program() -> None:
    _state(39, 1)  # PR_GET_NO_NEW_PRIVS


@attempt
def be_traced_and_dumped() -> None:
    _state(3, 0)  # PR_GET_DUMPABLE


@attempt
def unshare() -> None:
    call(272, 97, 0x10000000)  # CLONE_NEWUSER; last, as it changes who the worker is


# --- what ends the worker -------------------------------------------------------------------------------------------


@attempt
def deadly_execve() -> None:
    call(59, 221, b"/nonexistent", None, None)


@attempt
def deadly_execveat() -> None:
    call(322, 281, -100, b"/nonexistent", None, None, 0)


@attempt
def deadly_ptrace() -> None:
    call(101, 117, 0, 0, 0, 0)  # PTRACE_TRACEME


@attempt
def deadly_read_of_another_s_memory() -> None:
    call(310, 270, os.getppid(), None, 0, None, 0, 0)


@attempt
def deadly_write_to_another_s_memory() -> None:
    call(311, 271, os.getppid(), None, 0, None, 0, 0)
