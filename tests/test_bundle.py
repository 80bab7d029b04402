"""Contract: a bundle holds a run byte for byte; what differs from its list, or leaves its folder, is never put in place."""

import gzip
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmmr1.store import adopt, write_manifest
from lmmr1.types import UserError
from reproduce.bundle import INDEX, read_index, unpack_bundle, verify_bundle, write_bundle


@pytest.fixture
def run(tmp_path, tiny_model, monkeypatch):
    """results/x with one adopted checkpoint and a record, below the working directory."""
    base = tmp_path / "here"
    shutil.copytree(tiny_model, base / "checkpoints/abc/final")
    monkeypatch.chdir(base)
    write_manifest(Path("results/x/baseline/0/manifest.json"), adopt("checkpoints/abc/final", "test"))
    record = Path("results/x/baseline/0/eval/b/record.json")
    record.parent.mkdir(parents=True)
    record.write_text("[]\n")
    Path("results/x/baseline/0/half.partial").write_text("half")
    record.with_name(".record.json").hardlink_to(record)  # as evaluation does
    return Path("results/x")


def contents(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rewrite(bundle, change):
    """The bundle with `change(name, bytes, member)` -> (member, bytes) or None applied to every member."""
    out = io.BytesIO()
    with tarfile.open(bundle) as old, tarfile.open(fileobj=out, mode="w:gz") as new:
        for member in old:
            data = old.extractfile(member).read()
            found = change(member.name, data, member)
            if found is not None:
                changed, data = found
                changed.size = len(data) if changed.isreg() else 0
                new.addfile(changed, io.BytesIO(data))
    bundle.write_bytes(out.getvalue())


def test_round_trip(run, tmp_path):
    index = write_bundle(run, tmp_path / "x.tar.gz")
    assert verify_bundle(tmp_path / "x.tar.gz") == index
    unpack_bundle(tmp_path / "x.tar.gz", tmp_path / "there")
    mine = {k: v for k, v in contents(Path()).items() if not k.endswith(".partial")}
    assert contents(tmp_path / "there") == mine
    before = Path("results/x/baseline/0/manifest.json").stat().st_mtime
    there = (tmp_path / "there/results/x/baseline/0/manifest.json").stat().st_mtime
    assert abs(before - there) < 1  # or the workflow would make everything again
    with pytest.raises(UserError, match="is there already"):
        unpack_bundle(tmp_path / "x.tar.gz", tmp_path / "there")
    with pytest.raises(UserError, match="is there already"):
        write_bundle(run, tmp_path / "x.tar.gz")


def test_without_weights(run, tmp_path):
    index = write_bundle(run, tmp_path / "x.tar.gz", weights=False)
    assert not index.checkpoints and not any(name.startswith("checkpoints/") for name in index.files)


def test_no_name_of_a_user_or_of_this_machine(run, tmp_path):
    write_bundle(run, tmp_path / "x.tar.gz")
    with tarfile.open(tmp_path / "x.tar.gz") as archive:
        assert all((m.uname, m.gname, m.uid, m.gid) == ("", "", 0, 0) for m in archive)
    assert str(tmp_path).encode() not in gzip.decompress((tmp_path / "x.tar.gz").read_bytes())


def attack_flip(name, data, member):
    return (member, data[:-1] + bytes([data[-1] ^ 1])) if name.endswith(".safetensors") else (member, data)


def attack_longer(name, data, member):
    return (member, data + b"x") if name.endswith("record.json") else (member, data)


def attack_missing(name, data, member):
    return None if name.endswith("record.json") else (member, data)


def attack_link(name, data, member):
    if name.endswith("record.json"):
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member, data


def renamed(to):
    def change(name, data, member):
        if name == INDEX:
            index = json.loads(data)
            index["files"][to] = index["files"].pop("results/x/baseline/0/eval/b/record.json")
            return member, json.dumps(index).encode()
        member.name = to if name.endswith("record.json") else name
        return member, data

    return change


@pytest.mark.parametrize(
    "attack",
    [
        attack_flip, attack_longer, attack_missing, attack_link, renamed("../outside"), renamed("/absent/outside"),
        renamed("results/x/../../outside"), renamed("results/other/record.json"), renamed("Snakefile"),
        renamed("checkpoints/unlisted/final/model.safetensors"), renamed("results/x"),
    ],
)  # fmt: skip
def test_what_differs_from_its_list_is_refused_and_nothing_is_put_in_place(run, tmp_path, attack):
    bundle = tmp_path / "x.tar.gz"
    write_bundle(run, bundle)
    rewrite(bundle, attack)
    there = tmp_path / "there"
    for job in (lambda: verify_bundle(bundle), lambda: unpack_bundle(bundle, there)):
        with pytest.raises(UserError, match="x.tar.gz"):
            job()
    assert not contents(there) and not (tmp_path / "outside").exists()


def test_a_cut_off_bundle_is_refused_unless_only_its_padding_is_gone(run, tmp_path):
    bundle = tmp_path / "x.tar.gz"
    write_bundle(run, bundle)
    whole = bundle.read_bytes()
    files = {k: v for k, v in contents(Path()).items() if not k.endswith(".partial")}
    refused = 0
    for size in range(0, len(whole), max(1, len(whole) // 40)):
        bundle.write_bytes(whole[:size])
        there = tmp_path / f"there-{size}"
        try:
            unpack_bundle(bundle, there)
        except UserError:
            refused += 1
            assert not contents(there)
        else:
            assert contents(there) == files
    assert refused > 30


@given(st.binary(max_size=300) | st.text(max_size=100).map(lambda t: t.encode("utf-8", "surrogatepass")))
def test_any_index_is_read_or_refused(tmp_path_factory, text):
    bundle = tmp_path_factory.mktemp("fuzz") / "x.tar.gz"
    with tarfile.open(bundle, "w:gz") as archive:
        member = tarfile.TarInfo(INDEX)
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    with pytest.raises(UserError, match="x.tar.gz"):
        read_index(bundle)
