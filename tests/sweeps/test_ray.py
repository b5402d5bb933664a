"""A sweep on a Ray cluster of two nodes on this machine, of which a worker and then a node are killed."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import pandas as pd
import pytest
from conftest import TINY
from process_tasks import Here, die, refuse, visible_gpu, wait

import co_probe
from co_probe.errors import NotAllowed, UserError
from co_probe.executor import error_of
from co_probe.sweeps.grid import Grid
from co_probe.sweeps.ray_cluster import RayCluster

ray = pytest.importorskip("ray", reason='Ray is not installed: pip install "co-probe[ray]"')
pytestmark = pytest.mark.slow
PATIENCE = 90  # seconds
GRID = Grid(methods=("fgsm",), seeds=(0, 1, 2), settings=TINY)


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    paths = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))  # where workers find the functions of tests
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        node = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
        quick = {
            "health_check_initial_delay_ms": 0,
            "health_check_period_ms": 1000,
            "health_check_failure_threshold": 5,
        }
        head = {**node, "include_dashboard": False, "_system_config": quick}  # a dead node is noticed soon
        made = Cluster(initialize_head=True, head_node_args=head)
        made.second = made.add_node(**node)
        try:
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def holders(out: Path) -> dict[Path, int]:
    """The runs that are being trained and have an epoch, and the processes that train them."""
    found = {}
    for lock in out.glob("*/run.lock"):
        try:
            if (lock.parent / "epoch-0001.h5").exists() and not (lock.parent / "epoch-0003.h5").exists():
                found[lock.parent] = json.loads(lock.read_text())["pid"]
        except (ValueError, OSError):  # it is being written or removed
            continue
    return found


def wait_for(condition):
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("nothing happened")


def test_a_sweep_survives_a_killed_worker_and_a_killed_node(cluster, tmp_path):
    ended, out = {}, tmp_path / "sweep"

    def kill() -> None:
        run, pid = next(iter(wait_for(lambda: holders(out)).items()))
        ended["worker"] = run, (run / "epoch-0001.h5").stat()
        os.kill(pid, signal.SIGKILL)
        # Then the node, with whatever it trains just now.
        wait_for(lambda: set(holders(out)) - {run})
        cluster.remove_node(cluster.second, allow_graceful=False)
        ended["node"] = True

    killer = threading.Thread(target=kill)
    with RayCluster(cluster.address) as executor:
        killer.start()
        runs = co_probe.sweep(GRID, out, executor=executor, device="cpu")
        killer.join()
    assert [run.epochs for run in runs] == [[1, 2, 3]] * 3 and ended["node"]
    run, before = ended["worker"]
    assert (run / "epoch-0001.h5").stat().st_ino == before.st_ino, "it went on, and did not start afresh"

    usual = co_probe.sweep(GRID, tmp_path / "usual", executor=Here(), device="cpu")
    tables = [pd.concat([run.frame("metrics") for run in each], ignore_index=True) for each in (runs, usual)]
    first, second = (table[table["quantity"] != "seconds"].reset_index(drop=True) for table in tables)
    pd.testing.assert_frame_equal(first, second)


def test_tasks_end_as_they_do_elsewhere(cluster, tmp_path):
    with RayCluster(cluster.address, retries=1) as executor:
        assert executor.submit(int, "7").result(PATIENCE) == 7
        assert executor.submit(visible_gpu).result(PATIENCE) == ""
        refused = executor.submit(refuse).exception(PATIENCE)
        assert isinstance(refused, NotAllowed) and refused.name == "mine:Net"
        killed = executor.submit(die)
        killed.exception(PATIENCE)
        assert "its worker or node died 2 times" in str(error_of(killed))
        file = tmp_path / "it runs"
        running = executor.submit(wait, str(file))
        wait_for(file.exists)
        assert running.cancel() and executor.submit(int, "8").result(PATIENCE) == 8, "it made room for another"
    with pytest.raises(UserError, match="a task takes 1000 cores"):
        RayCluster(cluster.address, cpus=1000)
    with pytest.raises(UserError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        RayCluster("127.0.0.1:1")


def test_the_commands_take_a_cluster(cluster, tmp_path, call):
    there = ["--engine", "ray", "--address", cluster.address]
    sets = [part for text in ("epochs=1", "model.width=8", "data.size=8", "probe.test=40") for part in ("--set", text)]
    arguments = ["sweep", "--methods", "fgsm", "--out", tmp_path / "s", *there, *sets]
    code, out, _ = call(*arguments)
    assert code == 0 and "1 of 1 runs are complete" in out
    code, out, _ = call("gap", "--runs", tmp_path / "s", "--against", "pgd2", "--csv", *there)
    assert code == 0 and len(out.splitlines()) == 3
