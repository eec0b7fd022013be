#!/usr/bin/python3
"""What the scripts of this folder need that a shell cannot do, or only with a process for each file.

Names are bytes throughout. A subcommand prints why it failed and ends with 1.
"""
import ctypes
import fcntl
import hashlib
import mmap
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
import traceback


def diod(folder, mountpoint, options):
    """Serves FOLDER by diod on a socketpair and mounts it: the reference, without channel or relay."""
    ours, its = socket.socketpair()
    subprocess.Popen(
        ["diod", "-f", "-n", "-L", "/dev/null", "-e", folder, "-r", "0", "-w", "0"],
        stdin=its, stderr=subprocess.DEVNULL, start_new_session=True)
    its.close()
    fd = ours.fileno()
    options += f",trans=fd,rfdno={fd},wfdno={fd},version=9p2000.L,uname=root,aname={folder},access=any"
    subprocess.run(["mount", "-i", "-t", "9p", "-o", options, "work", mountpoint],
                   check=True, pass_fds=[fd])


def unmount(path):
    """umount2(2) and nothing else."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(path.encode(), 0) != 0:
        raise OSError(ctypes.get_errno(), "umount2")


def tree(root, files, seed="1"):
    """A tree of FILES files of all sizes, 0 to some MiB, in folders of different depth, with links."""
    chance = random.Random(int(seed))
    files = int(files)
    folders = [os.fsencode(root)]
    os.makedirs(root, exist_ok=True)
    for number in range(max(1, files // 25)):
        parent = chance.choice(folders[-8:] + folders[:2])
        folders.append(os.path.join(parent, b"folder %d" % number))
        os.mkdir(folders[-1])
    sizes = [0, 1, 511, 4095, 4096, 4097, 65511, 65512, 65513, 65536, 131072 + 1, 1 << 20, (5 << 20) + 7]
    block = chance.randbytes(8 << 20)
    for number in range(files):
        if number < len(sizes):
            size = sizes[number]
        else:
            size = int(chance.paretovariate(0.7) * 200) % 200_000
        start = chance.randrange(1 << 20)
        name = os.path.join(chance.choice(folders), b"file-%d" % number)
        with open(name, "wb") as file:
            file.write(block[start:start + size])
        os.chmod(name, chance.choice([0o644, 0o600, 0o755]))
        if number % 50 == 7:
            os.symlink(b"../file-%d" % number, name + b".link")
        if number % 50 == 9:
            os.link(name, name + b".hard")


def names(root, action):
    """Makes, or checks, files whose names are not UTF-8, or otherwise unusual."""
    unusual = [b"\xff\xfe", b"caf\xe9", b"\xc3\xa9t\xc3\xa9", b" leading and trailing ", b"new\nline", b"-dash",
               b"\x01\x7f", b"..three", b"...", b"quote'\"\\", b"\xf0\x9f\x98\x80", b"n" * 255, b"\xff" * 255]
    root = os.fsencode(root)
    if action == "make":
        for name in unusual:
            os.mkdir(os.path.join(root, b"d" + name[:200]))
            with open(os.path.join(root, name), "wb") as file:
                file.write(name)
        try:
            open(os.path.join(root, b"n" * 256), "wb")
            sys.exit("a name of 256 bytes was taken")
        except OSError as error:
            assert error.errno == 36, error
    found = set(os.listdir(root))
    expected = set(unusual) | {b"d" + name[:200] for name in unusual}
    assert found == expected, (found - expected, expected - found)
    for name in unusual:
        with open(os.path.join(root, name), "rb") as file:
            assert file.read() == name, name


def sum(root):
    """One line for each entry below ROOT: type, mode, size, and a checksum or a link's target."""
    root = os.fsencode(root)
    lines = []
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            info = os.lstat(path)
            what = b"-"
            if stat.S_ISLNK(info.st_mode):
                what = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                digest = hashlib.sha256()
                with open(path, "rb", buffering=0) as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
                what = digest.hexdigest().encode()
            size = info.st_size if stat.S_ISREG(info.st_mode) else 0
            lines.append(b"%s %o %d %s" % (repr(path[len(root):]).encode(), info.st_mode, size, what))
    assert lines, f"{root} is empty"
    sys.stdout.buffer.write(b"\n".join(sorted(lines)) + b"\n")


def map(path, how):
    """Reads PATH through a mapping and compares with read(2); private and shared-write if asked."""
    with open(path, "r+b" if how == "write" else "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if how == "write":
            with mmap.mmap(file.fileno(), size) as mapping:
                mapping[5:10] = b"hello"
                mapping[size - 3:size] = b"end"
                mapping.flush()
            return
        with mmap.mmap(file.fileno(), size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as mapping:
            assert mapping[:] == file.read(), "the mapping differs from the file"
            mapping[0:4] = b"mine"
            file.seek(0)
            assert file.read(4) != b"mine", "a private mapping was written"


def lock_range(file, kind, start, length):
    """fcntl(F_SETLK) as itself, to see its errno."""
    fcntl.fcntl(file, fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))


def busy(action):
    try:
        action()
    except OSError as error:
        assert error.errno in (11, 13), error
        return True
    return False


def child(work):
    """Runs WORK in another process; its result is whether it returned True."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 3
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, 3), f"the other process ended with {status}"
    return status == 0


def locks(first, second):
    """Record locks between two processes, one using the name FIRST, the other the name SECOND."""
    def tries(kind, start, length):
        with open(second, "r+b") as file:
            return busy(lambda: lock_range(file, kind, start, length))

    read, write, off = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
    with open(first, "r+b") as file:
        lock_range(file, write, 0, 100)
        assert child(lambda: tries(write, 50, 10)), "a write lock was given twice"
        assert child(lambda: tries(read, 99, 1)), "a read lock beside a write lock"
        assert not child(lambda: tries(write, 100, 10)), "a lock refused outside the locked range"
        with open(second, "r+b") as other:
            def owner():
                asked = struct.pack("hhqqi4x", write, 0, 0, 10, 0)
                with open(second, "r+b") as file:
                    return struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, asked))[0] == write
            assert child(owner), "F_GETLK does not see the lock"
        # (closing `other` has dropped this process's own locks where both names are one file system)
        lock_range(file, off, 0, 0)
        lock_range(file, read, 0, 100)
        assert not child(lambda: tries(read, 0, 100)), "two read locks"
        assert child(lambda: tries(write, 0, 100)), "a write lock beside a read lock"
        lock_range(file, off, 0, 0)
        assert not child(lambda: tries(write, 0, 100)), "the lock is still there"
        lock_range(file, write, 0, 0)
    assert not child(lambda: tries(write, 0, 100)), "the lock outlived its file"
    # A process that waits gets the lock when its holder dies.
    reader, writer = os.pipe()
    holder = os.fork()
    if holder == 0:
        file = open(first, "r+b")
        lock_range(file, write, 0, 10)
        os.write(writer, b"x")
        time.sleep(600)
        os._exit(1)
    os.read(reader, 1)
    waiter = os.fork()
    if waiter == 0:
        signal.alarm(60)
        with open(second, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
            file.write(b"got")
        os._exit(0)
    time.sleep(0.3)
    assert os.waitpid(waiter, os.WNOHANG)[0] == 0, "the lock was given while it was held"
    os.kill(holder, 9)
    os.waitpid(holder, 0)
    assert os.waitpid(waiter, 0)[1] == 0, "the waiting process never got the lock"
    with open(first, "rb") as file:
        assert file.read(3) == b"got"


def flocks(path):
    """flock(2) between two processes through one mount."""
    def tries():
        with open(path, "r+b") as file:
            return busy(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))

    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert child(tries), "flock was given twice"
        fcntl.flock(file, fcntl.LOCK_UN)
        assert not child(tries), "flock is still there"


def appends(path, count):
    """Two processes append COUNT lines each; none may be lost or torn."""
    count = int(count)

    def write(letter):
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for number in range(count):
            os.write(fd, b"%s%06d\n" % (letter, number))
        os.close(fd)
        return True

    pid = os.fork()
    if pid == 0:
        write(b"b")
        os._exit(0)
    write(b"a")
    assert os.waitpid(pid, 0)[1] == 0
    with open(path, "rb") as file:
        lines = file.read().splitlines()
    for letter in (b"a", b"b"):
        assert [line for line in lines if line[:1] == letter] == [b"%s%06d" % (letter, n) for n in range(count)]
    assert len(lines) == 2 * count, len(lines)


def opened(root):
    """What a process may go on doing with what it opened: renamed, removed, truncated, replaced."""
    path = os.path.join(root, "opened")
    os.makedirs(path + ".d/sub")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o640)
    os.write(fd, b"one two three")
    os.rename(path, path + ".renamed")
    assert os.fstat(fd).st_size == 13
    os.pwrite(fd, b"ONE", 0)
    assert os.pread(fd, 20, 0) == b"ONE two three"
    folder = os.open(path + ".d", os.O_RDONLY | os.O_DIRECTORY)
    os.rename(path + ".d", path + ".moved")
    inside = os.open("in", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=folder)
    os.write(inside, b"inside")
    os.close(inside)
    assert sorted(os.listdir(folder)) == ["in", "sub"], os.listdir(folder)
    with open(path + ".moved/in", "rb") as file:
        assert file.read() == b"inside"
    os.close(folder)
    os.unlink(path + ".renamed")
    os.ftruncate(fd, 3)
    info = os.fstat(fd)
    assert (info.st_size, info.st_nlink) == (3, 0), info
    os.pwrite(fd, b"still", 3)
    assert os.pread(fd, 20, 0) == b"ONEstill"
    os.close(fd)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o400)
    os.write(fd, b"old")
    with open(path + ".new", "wb") as file:
        file.write(b"new")
    os.rename(path + ".new", path)
    assert os.pread(fd, 9, 0) == b"old"
    with open(path, "rb") as file:
        assert file.read() == b"new"
    os.close(fd)


def sparse(path, action):
    """A file with holes beyond 4 GiB: made, or checked."""
    far = (5 << 30) + 123
    if action == "make":
        with open(path, "wb") as file:
            file.write(b"begin")
            file.seek(far)
            file.write(b"end")
            file.truncate(far + (1 << 20))
    info = os.stat(path)
    assert info.st_size == far + (1 << 20), info.st_size
    with open(path, "rb") as file:
        assert file.read(4096) == b"begin" + bytes(4091)
        for place in ((1 << 32) - 2048, (1 << 31) - 2048, far - 4093):
            file.seek(place)
            got = file.read(4096)
            assert got == bytes(4093) + b"end" if place == far - 4093 else got == bytes(4096), place
        file.seek(far + (1 << 20) - 10)
        assert file.read(100) == bytes(10)


def folder(root, count):
    """A folder of many names, read whole while it changes, and from a place in its middle."""
    count = int(count)
    for number in range(count):
        os.close(os.open(os.path.join(root, f"name-{number:05}"), os.O_CREAT | os.O_WRONLY))
    assert len(os.listdir(root)) == count
    seen = set()
    with os.scandir(root) as entries:
        for position, entry in enumerate(entries):
            assert entry.name not in seen, entry.name
            seen.add(entry.name)
            if position == count // 2:
                for number in range(0, count, 7):
                    os.unlink(os.path.join(root, f"name-{number:05}"))
    kept = {f"name-{number:05}" for number in range(count) if number % 7}
    assert kept <= seen, sorted(kept - seen)[:5]
    assert set(os.listdir(root)) == kept


def make_files(root, count):
    """Files of different sizes."""
    for n in range(int(count)):
        with open(f"{root}/file-{n:06}", "w") as file:
            file.write("x" * n)


def reads(path, seconds, result):
    """Reads PATH again and again until an error, and says which, and when, in the file RESULT."""
    end = time.monotonic() + float(seconds)
    try:
        while time.monotonic() < end:
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 18):
                    pass
        text = "no error"
    except OSError as error:
        text = error.strerror
    with open(result + ".new", "w") as file:
        file.write(f"{int(time.time() * 1000)} {text}\n")
    os.rename(result + ".new", result)


def defaults(*command):
    """Runs COMMAND with the signals that a shell's background processes ignore as a terminal gives them."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    os.execv(command[0], command)


def cut(count, server):
    """Passes COUNT of SERVER's bytes on, closes stdout, and stays until SERVER ends."""
    with subprocess.Popen([server], stdout=subprocess.PIPE) as process:
        left = int(count)
        while left and (block := os.read(process.stdout.fileno(), left)):
            os.write(1, block)
            left -= len(block)
        os.close(1)
    os._exit(0)


def version():
    """Passes a server's bytes on, with another version in its preface (PROTOCOL.md: magic, size, version)."""
    preface = b""
    while len(preface) < 14:
        preface += os.read(0, 14 - len(preface)) or sys.exit("the server said nothing")
    os.write(1, preface[:12] + struct.pack("<H", 0x7fff))
    while block := os.read(0, 65536):
        os.write(1, block)


def rates(folder, file):
    """Rates and round trips of a mount: writes FOLDER/FILE of 96 MiB, reads it, asks for its attributes."""
    path = os.path.join(folder, file)
    block, blocks = os.urandom(1 << 20), 96
    start = time.monotonic()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    for _ in range(blocks):
        assert os.write(fd, block) == len(block)
    os.fsync(fd)
    write = blocks * len(block) / (time.monotonic() - start)
    os.close(fd)
    start = time.monotonic()
    fd = os.open(path, os.O_RDONLY)
    space = bytearray(1 << 20)
    while os.readv(fd, [space]):
        pass
    read = blocks * len(block) / (time.monotonic() - start)
    trips = []
    for _ in range(400):
        start = time.monotonic()
        os.fstat(fd)
        trips.append(time.monotonic() - start)
    os.close(fd)
    start = time.monotonic()
    for _ in range(100):
        os.stat(path)
    stats = 100 / (time.monotonic() - start)
    os.unlink(path)
    print(f"{read / 1e6:.0f} {write / 1e6:.0f} {sorted(trips)[200] * 1e6:.0f} {stats:.0f}")


def raw():
    """The same figures of a bare socketpair between two processes, which is what the mount travels on."""
    ours, its = socket.socketpair()
    block, total = bytes(65536), 96 << 20
    pid = os.fork()
    if pid == 0:
        ours.close()
        got, space = 0, bytearray(1 << 20)
        while got < total + 1:
            got += its.recv_into(space)
        its.send(b"x")
        while message := its.recv(64):
            its.send(message)
        os._exit(0)
    its.close()
    start = time.monotonic()
    for _ in range(total // len(block)):
        ours.sendall(block)
    ours.send(b"x")
    ours.recv(64)
    rate = total / (time.monotonic() - start)
    trips = []
    for _ in range(400):
        start = time.monotonic()
        ours.send(b"x" * 30)
        ours.recv(64)
        trips.append(time.monotonic() - start)
    ours.close()
    os.waitpid(pid, 0)
    print(f"{rate / 1e6:.0f} {rate / 1e6:.0f} {sorted(trips)[200] * 1e6:.0f} -")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
