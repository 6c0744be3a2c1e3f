"""A checkpoint kept elsewhere shows what a chain alone cannot: a cut end, a log made anew."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mas_sandbox.audit import signing
from mas_sandbox.audit.canonical import canonical
from mas_sandbox.audit.checkpoints import CHECKPOINTS_NAME, Checkpoint, make, parse, read, sign
from mas_sandbox.audit.key import make_secret
from mas_sandbox.audit.log import LOG_NAME, AuditLog
from mas_sandbox.audit.records import GENESIS, encode, seal
from mas_sandbox.audit.storage import Storage
from mas_sandbox.audit.verify import verify
from mas_sandbox.cli.main import main
from mas_sandbox.wire.errors import SandboxError

SEED = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
"""Of the first test of RFC 8032, section 7.1."""
VECTOR = Checkpoint(
    format="mas-sandbox-audit-checkpoint-v1",
    log="11" * 32,
    seq=1000,
    head="22" * 32,
    time="2026-01-02T03:04:05.678Z",
    key="21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9",
    signature="",
)
SIGNED = (
    '{"format":"mas-sandbox-audit-checkpoint-v1","head":"' + "22" * 32 + '",'
    '"key":"21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9",'
    '"log":"' + "11" * 32 + '","seq":1000,"time":"2026-01-02T03:04:05.678Z"}'
).encode()

SIGNATURE = (
    "f6f5333f6886c8dd0f765a1b67c2d7d58a4a0d1cad1f340dbea35ae92f94aaab"
    "32223323669da80cfd583ac6e3dc2814693873efa18ce2c79a5c5f3cd933520d"
)


class Unsynced(Storage):
    def sync(self, descriptor: int) -> None:
        """Nothing: these tests end no machine."""


def write(directory: Path, records: int, *, most: int = 1 << 20, sign_end: bool = True) -> Path:
    async def run() -> None:
        log = AuditLog.open(directory, max_bytes=most, sign_end=sign_end, storage=Unsynced())
        await asyncio.gather(*(_one(log, number) for number in range(records)))
        await log.close()

    asyncio.run(run())
    return directory / LOG_NAME


async def _one(log: AuditLog, number: int) -> None:
    await log.sandbox(action="create", sandbox_id=f"s{number}", principal="p", runtime="jail")


def kept(log: Path) -> list[Checkpoint]:
    sound, wrong = read(
        log.with_name(CHECKPOINTS_NAME), signing.public_key(log.with_name(signing.PUBLIC_NAME))
    )
    assert wrong == []
    return sound


def problems(log: Path, held: list[Checkpoint]) -> str:
    return "; ".join(problem.reason for problem in verify(log, None, held).problems)


def test_the_vector_is_what_rfc_8032_and_openssl_say(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.from_private_bytes(SEED)
    public = key.public_key().public_bytes_raw().hex()
    assert public == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    made = make(key, VECTOR.log, VECTOR.seq, VECTOR.head, VECTOR.time)
    assert replace(made, signature="") == VECTOR
    fields = asdict(made)
    del fields["signature"]
    assert canonical(fields) == SIGNED
    der = bytes.fromhex("302e020100300506032b657004220420") + SEED  # RFC 8410, section 10.3
    (tmp_path / "key").write_bytes(der)
    (tmp_path / "content").write_bytes(SIGNED)
    by_openssl = subprocess.run(
        ["openssl", "pkeyutl", "-sign", "-rawin", "-keyform", "DER", "-inkey", "key", "-in", "content"],
        cwd=tmp_path, capture_output=True, check=True, timeout=30,
    )  # fmt: skip
    assert made.signature == by_openssl.stdout.hex()
    assert made.signature == SIGNATURE


def test_openssl_verifies_what_is_kept_beside_a_log(tmp_path: Path) -> None:
    log = write(tmp_path, 1)
    fields = json.loads((tmp_path / CHECKPOINTS_NAME).read_bytes())
    (tmp_path / "signature").write_bytes(bytes.fromhex(fields.pop("signature")))
    (tmp_path / "content").write_bytes(canonical(fields))
    command = (
        "openssl pkeyutl -verify -rawin -pubin -inkey audit-signing.pub "
        "-in content -sigfile signature"
    )
    subprocess.run(command.split(), cwd=log.parent, check=True, timeout=30, capture_output=True)


def test_it_is_signed_at_the_end_at_a_new_file_and_every_so_many_records(tmp_path: Path) -> None:
    log = write(tmp_path / "end", 3)
    assert [each.seq for each in kept(log)] == [verify(log).last]
    log = write(tmp_path / "many", 2500, sign_end=False)
    assert len(kept(log)) >= 1
    assert kept(log)[-1].seq >= 2000
    log = write(tmp_path / "files", 10, most=1)
    assert len(kept(log)) >= 2
    assert verify(log, None, kept(log)).checkpoints == len(kept(log))


def test_a_short_daemon_signs_nothing(tmp_path: Path) -> None:
    """It would take it longer than its call."""
    write(tmp_path, 3, sign_end=False)
    assert not (tmp_path / CHECKPOINTS_NAME).exists()


def test_a_cut_end_is_found(tmp_path: Path) -> None:
    log = write(tmp_path, 5)
    held = kept(log)
    assert problems(log, held) == ""
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert problems(log, []) == ""
    assert "its end was cut" in problems(log, held)


@pytest.mark.parametrize("from_record", [0, 3])
def test_a_log_made_anew_is_found(tmp_path: Path, from_record: int) -> None:
    log = write(tmp_path, 5)
    held = kept(log)
    forged, previous = [], GENESIS
    for number, line in enumerate(log.read_bytes().splitlines()):
        record = json.loads(line)
        del record["digest"]
        if number >= from_record:
            record["time"] = "2020-01-01T00:00:00.000Z"
        forged.append(seal(record, number + 1, previous))
        previous = forged[-1]["digest"]
    log.write_bytes(b"".join(map(encode, forged)))
    assert problems(log, []) == ""
    said = problems(log, held)
    assert ("this one was made anew" if from_record == 0 else "the log was rewritten") in said


def test_another_log_in_its_place_is_found(tmp_path: Path) -> None:
    held = kept(write(tmp_path / "one", 2))
    assert "is of another log" in problems(write(tmp_path / "other", 9), held)
    (tmp_path / "one" / LOG_NAME).write_bytes(b"")
    assert "its end was cut" in problems(tmp_path / "one" / LOG_NAME, held)


def test_a_missing_oldest_file_hides_no_later_checkpoint(tmp_path: Path) -> None:
    log = write(tmp_path, 3, most=1)
    write(tmp_path, 3, most=1)
    write(tmp_path, 3, most=1)
    held = kept(log)
    (tmp_path / f"{LOG_NAME}.000001").unlink()
    found = verify(log, None, held, partial=True)
    assert found.problems == []
    assert found.checkpoints == len([each for each in held if each.seq >= found.first]) > 0


def test_a_changed_checkpoint_or_another_key_is_told(tmp_path: Path) -> None:
    log = write(tmp_path, 2)
    key = signing.public_key(tmp_path / signing.PUBLIC_NAME)
    (held,) = kept(log)
    names = {"log": "0" * 64, "seq": held.seq + 1, "head": "0" * 64, "time": "2020"}
    for name, value in names.items():
        (tmp_path / "changed").write_bytes(Checkpoint(**(asdict(held) | {name: value})).encode())
        sound, wrong = read(tmp_path / "changed", key)
        assert (sound, len(wrong)) == ([], 1), name
        assert "was changed" in wrong[0]
    foreign = make(Ed25519PrivateKey.generate(), held.log, held.seq, held.head, held.time)
    (tmp_path / "changed").write_bytes(foreign.encode())
    assert "another key" in read(tmp_path / "changed", key)[1][0]
    # Its maker names the right key, and still has another.
    (tmp_path / "changed").write_bytes(replace(foreign, key=held.key).encode())
    assert "was changed" in read(tmp_path / "changed", key)[1][0]


@pytest.mark.parametrize(
    "line", [b"", b"{}", b"[" * 100_000, b"\xff", b'{"format":"mas-sandbox-audit-checkpoint-v1"}']
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, line: bytes) -> None:
    write(tmp_path, 1)
    (tmp_path / "file").write_bytes(line)
    sound, wrong = read(tmp_path / "file", signing.public_key(tmp_path / signing.PUBLIC_NAME))
    assert sound == []
    assert wrong


def test_what_a_crash_left_of_a_checkpoint_is_cut_off(tmp_path: Path) -> None:
    log = write(tmp_path, 1)
    file = tmp_path / CHECKPOINTS_NAME
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:100])
    found = verify(log)
    sign(log, found.last, found.head)
    assert len(kept(log)) == 2


def plant(directory: Path, how: str) -> None:
    key = directory / signing.KEY_NAME
    match how:
        case "open to others":
            key.chmod(0o640)
        case "a link":
            key.rename(directory / "elsewhere")
            key.symlink_to(directory / "elsewhere")
        case "a fifo":
            key.unlink()
            os.mkfifo(key, 0o600)


@pytest.mark.parametrize("how", ["open to others", "a link", "a fifo"])
def test_a_signing_key_that_is_not_ours_alone_is_refused_at_the_start(
    tmp_path: Path, how: str
) -> None:
    write(tmp_path, 1)
    for name in (signing.KEY_NAME, signing.PUBLIC_NAME, CHECKPOINTS_NAME):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    plant(tmp_path, how)
    with pytest.raises(SandboxError, match=r"cannot be opened: .*audit-signing.key|symbolic"):
        AuditLog.open(tmp_path)


def test_a_key_that_is_none_costs_checkpoints_and_no_call(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / signing.KEY_NAME).touch(0o600)
    log = write(tmp_path, 2)
    assert verify(log).ok
    assert "no checkpoint of the audit log could be signed" in caplog.text
    assert not (tmp_path / CHECKPOINTS_NAME).exists()


def test_the_command_signs_and_verifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write(tmp_path / "state", 4, sign_end=False)
    where = ["--state-dir", str(log.parent)]
    assert main(["audit", "checkpoint", *where]) == 0
    held = tmp_path / "checkpoint.json"
    held.write_text(capsys.readouterr().out)
    assert parse(held.read_bytes()).seq == verify(log).last
    elsewhere = tmp_path / "copy.pub"
    shutil.copy(log.with_name(signing.PUBLIC_NAME), elsewhere)
    against = ["audit", "verify", *where, "--checkpoint", str(held), "--public-key", str(elsewhere)]
    assert main(against) == 0
    assert "1 checkpoints hold, up to record 6 of 6" in capsys.readouterr().out
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    assert main(against) == 1
    assert "its end was cut" in capsys.readouterr().out
    assert main(["audit", "checkpoint", *where]) == 1
    assert "nothing was signed" in capsys.readouterr().err
    assert main([*against[:4], "--checkpoint", str(tmp_path / "none")]) == 1
    assert f"{tmp_path}/none" in capsys.readouterr().err


def test_nobody_signs_for_a_log_of_another_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write(tmp_path, 1, sign_end=False)
    monkeypatch.setattr(os, "geteuid", lambda: log.stat().st_uid + 1)
    assert main(["audit", "checkpoint", "--state-dir", str(tmp_path)]) == 1
    assert "run this as that user" in capsys.readouterr().err
    assert not (tmp_path / signing.KEY_NAME).exists()


def test_two_that_make_the_key_at_once_have_one(tmp_path: Path) -> None:
    key = tmp_path / signing.KEY_NAME
    first = signing.signing_key(key).private_bytes_raw()
    assert signing.signing_key(key).private_bytes_raw() == first
    assert b"PRIVATE KEY" in make_secret(key, b"mine")
    assert sorted(each.name for each in tmp_path.iterdir()) == [signing.KEY_NAME]
