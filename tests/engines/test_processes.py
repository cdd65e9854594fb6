"""What engine processes do when the process that started them, or its terminal, stops."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

STARTER = """
import sys, time
from cos.engines.processes import EngineContext, preload, without_interrupts

def main():
    preload(["json"])
    process = EngineContext().Process(target=time.sleep, args=(60,))
    with without_interrupts():
        process.start()
    print(process.pid, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    main()
"""


def started() -> tuple["subprocess.Popen[str]", psutil.Process]:
    """A process, in a group of its own, and the engine process it has started."""
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert starter.stdout is not None
    return starter, psutil.Process(int(starter.stdout.readline()))


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_an_engine_process_ends_with_a_parent_that_was_killed() -> None:
    starter, engine = started()
    with starter:
        starter.kill()
    for _ in range(100):
        if has_ended(engine):
            break
        time.sleep(0.1)
    assert has_ended(engine)


def test_ctrl_c_in_the_terminal_does_not_reach_an_engine_process() -> None:
    starter, engine = started()
    engine.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert not has_ended(engine)
    with starter:
        os.killpg(starter.pid, signal.SIGKILL)


def test_a_start_that_came_to_nothing_leaves_no_process_that_keeps_its_output_open(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time\ntime.sleep(60)\n")
    code = """
from cos.engines.processes import drop_preloaded, preload

if __name__ == "__main__":
    assert preload(["slow"])
    assert not preload(["slow"])
    drop_preloaded()
    assert preload(["slow"])
    drop_preloaded()
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == 0, done.stderr
