"""Lease: one holder at most, dead ones taken over, a lost one noticed."""

import os
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from fusion.errors import CrucibleError
from fusion.store import Lease, Location
from fusion.store.lease import Claim

HOLD = """
import sys, time
from fusion.store import Lease, Location
with Lease(Location.of(sys.argv[1]), "sample", ttl_s=float(sys.argv[2])):
    print("held", flush=True)
    time.sleep(600)
"""

# Takes the lease again and again; a witness file made exclusively shows a second holder.
RACE = """
import os, sys, time
from fusion.errors import CrucibleError
from fusion.store import Lease, Location
place, witness = Location.of(sys.argv[1]), sys.argv[2]
end = time.monotonic() + float(sys.argv[3])
while time.monotonic() < end:
    try:
        with Lease(place, "sample"):
            try:
                os.close(os.open(witness, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                print("both", flush=True)
                continue
            time.sleep(0.005)
            os.unlink(witness)
            print("alone", flush=True)
    except CrucibleError:
        print("refused", flush=True)
"""


def claims(storage: Location) -> list[str]:
    return [entry.name for entry in (storage / "sample").list()]


def test_second_driver_is_refused_and_told_who_holds_it(storage: Location) -> None:
    with Lease(storage, "sample") as lease:
        lease.check()
        with pytest.raises(CrucibleError) as refusal, Lease(storage, "sample"):
            pass
        assert f"sample is being run by process {os.getpid()} on " in str(refusal.value)
        assert " since 20" in str(refusal.value) and "wait for it or stop it" in str(refusal.value)
        assert len(claims(storage)) == 1
        lease.check()
    with Lease(storage, "sample"):
        pass
    assert claims(storage) == []


def test_leases_of_different_names_do_not_meet(storage: Location) -> None:
    with Lease(storage, "sample"), Lease(storage, "score"):
        assert {entry.name for entry in storage.list()} == {"sample", "score"}


def test_lease_is_given_back_when_the_block_fails(storage: Location) -> None:
    with pytest.raises(ZeroDivisionError), Lease(storage, "sample"):
        raise ZeroDivisionError
    assert claims(storage) == []


def test_of_racing_processes_never_do_two_hold_it(storage: Location, start, tmp_path) -> None:
    witness = tmp_path / "witness"
    racers = [start(RACE, storage, witness, 4) for _ in range(2)]
    seen = Counter(line for racer in racers for line in racer.communicate()[0].split())
    assert seen["both"] == 0
    assert seen["alone"] > 5


def test_of_many_threads_at_once_one_or_none_gets_it(storage: Location) -> None:
    holders = 0
    most = 0
    lock = threading.Lock()

    def run(_: int) -> None:
        nonlocal holders, most
        try:
            with Lease(storage, "sample"):
                with lock:
                    holders += 1
                    most = max(most, holders)
                time.sleep(0.05)
                with lock:
                    holders -= 1
        except CrucibleError:
            pass

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(12)))
    assert most == 1


def test_killed_holder_on_this_machine_is_taken_over_at_once(storage: Location, start) -> None:
    holder = start(HOLD, storage, 3600)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(CrucibleError, match=f"process {holder.pid}"), Lease(storage, "sample"):
        pass
    holder.send_signal(signal.SIGKILL)  # and not reaped: a zombie is dead as well
    time.sleep(0.2)
    with Lease(storage, "sample", ttl_s=3600):
        assert len(claims(storage)) == 1


def test_reused_pid_is_not_taken_for_the_holder(storage: Location) -> None:
    claim = _own_claim(storage).model_copy(update={"process_started": "1"})
    (storage / "sample" / "old.json").write_text(claim.model_dump_json())
    with Lease(storage, "sample"):
        assert "old.json" not in claims(storage)


def test_holder_on_another_machine_is_taken_over_only_after_its_ttl(storage: Location) -> None:
    claim = _own_claim(storage).model_copy(
        update={"machine": "elsewhere pid:[1]", "pid": 2**22 + 1, "host": "far-away"}
    )
    (storage / "sample" / "far.json").write_text(claim.model_dump_json())
    with pytest.raises(CrucibleError, match="on far-away"), Lease(storage, "sample", ttl_s=60):
        pass
    time.sleep(3.2)  # S3 tells whole seconds, so one second more than the ttl is granted
    with Lease(storage, "sample", ttl_s=1):
        assert "far.json" not in claims(storage)


def test_holder_that_renews_outlives_its_ttl(storage: Location, start) -> None:
    holder = start(HOLD, storage, 1)
    assert holder.stdout.readline() == "held\n"
    time.sleep(4)
    with pytest.raises(CrucibleError, match="is being run by"), Lease(storage, "sample", ttl_s=1):
        pass


def test_cleared_claim_is_noticed_and_not_written_again(storage: Location) -> None:
    with Lease(storage, "sample", ttl_s=1.5) as lease:
        lease.check()
        (storage / "sample").delete()
        time.sleep(1.2)
        with pytest.raises(CrucibleError, match=r"was lost \(its claim was cleared\)"):
            lease.check()
        time.sleep(0.6)
        assert claims(storage) == []


def test_storage_that_cannot_be_written_costs_the_lease(
    storage: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Location, data: object) -> None:
        raise OSError("the storage is away")

    with Lease(storage, "sample", ttl_s=2) as lease:
        monkeypatch.setattr(Location, "write_bytes", broken)
        time.sleep(0.4)
        lease.check()
        time.sleep(1.8)
        with pytest.raises(CrucibleError, match="was lost"):
            lease.check()


def test_stray_file_among_the_claims_is_named(storage: Location) -> None:
    (storage / "sample" / "notes.txt").write_text("hello")
    with pytest.raises(CrucibleError, match=r"notes\.txt.* is not a lease claim"):
        Lease(storage, "sample").__enter__()
    assert claims(storage) == ["notes.txt"]


def _own_claim(storage: Location) -> Claim:
    with Lease(storage, "sample"):
        (name,) = claims(storage)
        return Claim.model_validate_json((storage / "sample" / name).read_text())
