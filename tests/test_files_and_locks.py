"""Contract: a file is there whole or not at all, damage is named before use, and a folder has one run at a time."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmmr1 import files
from lmmr1.exits import exit_code, shortage
from lmmr1.files import seal, seal_folder, seal_of, sha256_weights, verify, verify_folder, verify_weights, write
from lmmr1.lock import owned
from lmmr1.types import UserError

ROOT = Path(__file__).resolve().parents[1]


# ------------------------------------------------------------------------------------------------------------- seals


@given(data=st.binary(min_size=1, max_size=200), at=st.integers(0), bit=st.integers(0, 7))
def test_any_flipped_bit_and_any_cut_is_found_and_named(tmp_path_factory, data, at, bit):
    path = tmp_path_factory.mktemp("f") / "a name.csv"
    write(path, data, sealed=True)
    verify(path)
    flipped = bytearray(data)
    flipped[at % len(data)] ^= 1 << bit
    for broken in (bytes(flipped), data[: at % len(data)]):
        path.write_bytes(broken)
        with pytest.raises(UserError, match=r"a name\.csv: damaged, .*delete it"):
            verify(path)


def test_seals_are_in_the_format_of_sha256sum(tmp_path):
    write(tmp_path / "a.jsonl", "text\n", sealed=True)
    done = subprocess.run(["sha256sum", "-c", ".a.jsonl.sha256"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0
    (tmp_path / "f").mkdir()
    write(tmp_path / "f/b.json", "{}")
    seal_folder(tmp_path / "f")
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "f", check=False).returncode == 0


def test_a_file_without_a_seal_is_taken_as_it_is_and_a_missing_one_is_named(tmp_path):
    write(tmp_path / "free.txt", "x")
    verify(tmp_path / "free.txt")
    write(tmp_path / "images/1.png", "x")
    write(tmp_path / "p.jsonl", "{}")
    seal(tmp_path / "p.jsonl", [tmp_path / "images/1.png"])
    (tmp_path / "images/1.png").unlink()
    with pytest.raises(UserError, match=r"images/1\.png: missing"):
        verify(tmp_path / "p.jsonl")


@pytest.mark.parametrize("broken", [b"", b"\xff\xfe", b"nonsense\n", b"0" * 64])
def test_a_damaged_seal_is_named_too(tmp_path, broken):
    write(tmp_path / "a.csv", "x", sealed=True)
    seal_of(tmp_path / "a.csv").write_bytes(broken)
    with pytest.raises(UserError, match=r"\.a\.csv\.sha256: damaged"):
        verify(tmp_path / "a.csv")


def test_files_of_a_sealed_folder_are_found_damaged_one_by_one_or_all(tmp_path):
    write(tmp_path / "model/config.json", "{}")
    write(tmp_path / "model/model.safetensors", "weights")
    seal_folder(tmp_path / "model")
    digest = sha256_weights(tmp_path / "model")
    verify_weights(tmp_path / "model", digest, "fix")
    (tmp_path / "model/config.json").write_text("[]")
    verify(tmp_path / "model/model.safetensors")
    for check in (
        lambda: verify(tmp_path / "model/config.json"),
        lambda: verify_folder(tmp_path / "model", "fix"),
        lambda: verify_weights(tmp_path / "model", digest, "fix"),
    ):
        with pytest.raises(UserError, match=r"config\.json: damaged"):
            check()


def test_large_weights_are_read_once_until_size_or_time_moves(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGE", 4)
    write(tmp_path / "model.safetensors", "weights")
    digest, read, real = sha256_weights(tmp_path), [], files.sha256_file
    monkeypatch.setattr(files, "sha256_file", lambda path: read.append(path.name) or real(path))
    for _ in range(3):
        verify_weights(tmp_path, digest, "fix")
    assert read == ["model.safetensors"]
    (tmp_path / "model.safetensors").write_text("weighty")
    with pytest.raises(UserError, match="weights are damaged"):
        verify_weights(tmp_path, digest, "fix")
    (tmp_path / ".verified.json").write_text("not json")
    write(tmp_path / "model.safetensors", "weights")
    verify_weights(tmp_path, digest, "fix")


# ----------------------------------------------------------------------------------------------------------- writing


def test_what_a_killed_writer_left_is_overwritten(tmp_path):
    (tmp_path / "a.json.partial").write_text("half of something much longer than what comes")
    write(tmp_path / "a.json", "{}")
    assert (tmp_path / "a.json").read_text() == "{}" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_many_writers_of_one_file_never_mix(tmp_path):
    path, texts = tmp_path / "a.txt", [f"{i}" * (1 + 4000 * i) for i in range(8)]
    threads = [threading.Thread(target=lambda t=t: [write(path, t, sealed=False) for _ in range(20)]) for t in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_text() in texts
    assert path.read_text() in texts and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_full_disk_is_one_line_that_names_the_file(tmp_path, capsys):
    """A limit on file sizes fails in the same system call as a full disk does."""
    if (child := os.fork()) == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
        try:
            write(tmp_path / "big.json", "x" * 1000)
        except UserError as e:
            os._exit(7 if "big.json: cannot be written, file too large" in str(e) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device", "out/a.json"),
            "out/a.json: cannot be written, no space left",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "out"),
            "out: cannot be written, permission denied; make it",
        ),
        (OSError("[Errno 28] Error writing bytes. Detail: [errno 28] No space left on device"), "the disk is full"),
        (MemoryError(), "out of memory; end other processes"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
    ],
)
def test_a_machine_that_ran_out_is_one_line_and_code_2(error, words, capsys):
    assert exit_code(raising(error)) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and words in lines[0]
    assert "run the same command again" in lines[0]


@pytest.mark.parametrize("error", [RuntimeError("a bug"), FileNotFoundError(errno.ENOENT, "No such file", "x")])
def test_any_other_error_keeps_its_traceback(error):
    assert shortage(error) is None
    with pytest.raises(type(error)):
        exit_code(raising(error))


# ------------------------------------------------------------------------------------------------------------- locks

HOLD = """
import sys, time
from pathlib import Path
from lmmr1.lock import owned
with owned(Path(sys.argv[1]), "training on prompts.jsonl"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has `tmp_path/run`."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_second_run_is_told_who_has_the_folder_and_the_way_out(tmp_path, holder):
    run = tmp_path / "run"
    with pytest.raises(UserError) as refused, owned(run, "the same"):
        pass
    for words in (f"process {holder.pid} on ", "training on prompts.jsonl", "since 2", f"rm {run / '.lock'}"):
        assert words in str(refused.value)
    (run / ".lock").unlink()
    with owned(run, "the way out"):
        pass


def test_the_kernel_releases_the_lock_of_a_killed_run(tmp_path, holder):
    holder.kill()
    holder.wait()
    with owned(tmp_path / "run", "the next"):
        pass
    assert list((tmp_path / "run").iterdir()) == []


def test_other_locks_of_a_folder_are_free_and_a_lock_can_be_taken_again(tmp_path, holder):
    run = tmp_path / "run"
    with owned(run, "another", ".other.lock"):
        assert {p.name for p in run.iterdir()} == {".lock", ".other.lock"}
    assert str(holder.pid) in (run / ".lock").read_text(), "the other lock is still its owner's"
    holder.send_signal(signal.SIGTERM)
    holder.wait()
    for work in ("once", "again"):
        with owned(run, work):
            assert str(os.getpid()) in (run / ".lock").read_text() and work in (run / ".lock").read_text()
        assert not list(run.iterdir())


@pytest.mark.parametrize("then", ["gone", "another's", "another's, who has it"])
def test_a_lock_that_its_owner_deletes_meanwhile_is_none(tmp_path, monkeypatch, then):
    """The owner ends between our opening of the file and our locking of it."""
    path, real, others = tmp_path / ".lock", fcntl.flock, []

    def late(file, how):
        if not others:
            path.unlink()
            others.append(path.open("w") if then != "gone" else None)
            if "has" in then:
                real(others[0], fcntl.LOCK_EX)
        real(file, how)

    monkeypatch.setattr("lmmr1.lock.fcntl.flock", late)
    if "has" in then:
        with pytest.raises(UserError, match="in use by"), owned(tmp_path, "late"):
            pass
        return
    with owned(tmp_path, "late"), path.open() as there:
        assert "late" in there.read()
        with pytest.raises(BlockingIOError):
            real(there, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_many_processes_one_owner(tmp_path):
    """Who holds the lock counts up alone: no count is lost."""
    counter, children = tmp_path / "count", []
    counter.write_text("0")
    for _ in range(4):
        if child := os.fork():
            children.append(child)
            continue
        done = 0
        while done < 10:
            try:
                with owned(tmp_path / "run", "counting"):
                    counter.write_text(str(int(counter.read_text()) + 1))
                    done += 1
            except UserError:
                time.sleep(0.001)
        os._exit(0)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert counter.read_text() == "40"
