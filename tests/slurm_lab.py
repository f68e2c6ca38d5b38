"""A real Slurm of one node, on loopback, in a folder of its own: munged, slurmctld and slurmd, started and stopped.

Nothing outside the folder is touched, ports are whichever are free, and so several labs run side by side. The
daemons are children of this process, are stopped by their pids whatever a test does, and die with this process.

`sacct`, which submitit asks how a job has ended, is a stand-in here: the real one needs a database of its own. It
answers the one question that submitit asks, from what slurmctld still knows, so that it never lags as the real one may.
Knows nothing of runs.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "setpriv")
GRACE_SECONDS = 10  # between the notice of a pre-emption and the kill
KILL_SECONDS = 3  # between SIGTERM and SIGKILL of a cancelled job
CREDENTIAL_SECONDS = 6  # a requeued job waits for the end of its credential, 120 s by default
CONFIGURATION = """
ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire={credential}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,requeue_delay=0
JobRequeue=1
ReturnToService=2
MinJobAge=86400
KillWait={kill}
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Boards=1 SocketsPerBoard=1 CoresPerSocket={cpus} ThreadsPerCore=1 \
State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE \
GraceTime={grace}
PartitionName=high Nodes={host} Default=NO MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
SACCT = """#!/bin/sh
# Stands in for: sacct -o JobID,State,NodeList --parsable2 -j ID [-j ID ...]
jobs=
while [ $# -gt 0 ]; do
    if [ "$1" = -j ]; then jobs="$jobs${jobs:+,}$2"; shift; fi
    shift
done
echo "JobID|State|NodeList"
squeue -r -h -t all -o '%i|%T|%N' -j "$jobs"
"""


def missing() -> str | None:
    """Why no lab can be started here; None if one can."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        return f"needs a Slurm to start (Debian's slurm-wlm and munge): there is no {', '.join(absent)}"
    return None if os.geteuid() == 0 else "needs root, for slurmd"


def wait_for(what: str, true: Callable[[], bool], seconds: float) -> None:
    """Wait until it is true. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.1)


@dataclass(frozen=True)
class Lab:
    """A Slurm that runs.

    Attributes:
        environment: what its commands, and whoever calls them, need.
    """

    folder: Path
    environment: Mapping[str, str]

    def ask(self, *command: str) -> str:
        """What one of its commands prints."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, *command: str) -> str:
        """The number of a new job, whose script is the last word."""
        *options, script = command
        output = f"--output={self.folder}/%j.out"
        return self.ask("sbatch", "--parsable", output, *options, f"--wrap={script}")

    def jobs(self) -> dict[str, str]:
        """The state of every job since the start, cells of an array one by one."""
        lines = self.ask("squeue", "-r", "-h", "-t", "all", "-o", "%i %T").splitlines()
        return dict(line.split() for line in lines)

    def detail(self, job: str, key: str) -> str:
        """A value of `scontrol show job`."""
        words = self.ask("scontrol", "-o", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{key}="))

    def cancel_all(self) -> None:
        """End all jobs, and wait until they have ended."""
        self.ask("scancel", "--user=root")
        wait_for("the end of all jobs", lambda: not self.ask("squeue", "-h"), 60)


@contextmanager
def slurm_lab(cpus: int) -> Iterator[Lab]:
    """A Slurm meanwhile. Its jobs of `high` pre-empt those of `main`, with SIGTERM alone before the grace time."""
    with TemporaryDirectory(prefix="slurm-") as name, ExitStack() as daemons:
        folder = Path(name)
        environment = _configure(folder, cpus)
        conf = f"{folder}/slurm.conf"
        munge = [f"--{key}={folder}/munge.{end}" for key, end in MUNGE.items()]
        daemons.enter_context(_daemon(folder, environment, "munged", "--foreground", "--force", *munge))
        wait_for("munged", (folder / "munge.sock").exists, 10)
        daemons.enter_context(_daemon(folder, environment, "slurmctld", "-D", "-f", conf))
        daemons.enter_context(_daemon(folder, environment, "slurmd", "-D", "-f", conf))
        lab = Lab(folder, environment)
        wait_for(f"an idle node; see {folder}/*.log", lambda: _idle(lab), 30)
        daemons.callback(lab.cancel_all)  # before the daemons
        yield lab


MUNGE = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "munged", "seed-file": "seed"}


def _configure(folder: Path, cpus: int) -> dict[str, str]:
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    (folder / "munge.key").touch(mode=0o600)
    (folder / "munge.key").write_bytes(os.urandom(128))
    controller_port, node_port = _free_ports(2)
    values = {"folder": folder, "host": socket.gethostname().partition(".")[0], "cpus": cpus}
    values |= {"controller_port": controller_port, "node_port": node_port}
    values |= {"credential": CREDENTIAL_SECONDS, "kill": KILL_SECONDS, "grace": GRACE_SECONDS}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**values))
    sacct = folder / "bin" / "sacct"
    sacct.write_text(SACCT)
    sacct.chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "SBATCH", "SUBMITIT"))}
    return {**kept, "SLURM_CONF": f"{folder}/slurm.conf", "PATH": f"{folder}/bin:{os.environ['PATH']}"}


def _free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens at; held together, so that they differ."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _idle(lab: Lab) -> bool:
    done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=lab.environment, capture_output=True, text=True, timeout=30)
    return done.stdout.split()[:1] == ["idle"]


@contextmanager
def _daemon(folder: Path, environment: Mapping[str, str], *command: str) -> Iterator[None]:
    with (folder / f"{command[0]}.log").open("w") as log:
        dies_with_us = ["setpriv", "--pdeathsig", "TERM"]
        process = subprocess.Popen([*dies_with_us, *command], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
