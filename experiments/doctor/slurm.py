"""What SLURM has given a job, against what the run would use of it. Knows variables of the environment alone.

Their values may be anything: what is no number is taken as not said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from experiments.doctor.finding import Finding
from experiments.memory_report import spoken
from mtad.errors import UserError

CHECK = "SLURM"
TORCHRUN = "WORLD_SIZE"  # which torchrun sets in every process that it starts
ONE = "start one (--ntasks=1); for tensor parallelism that one starts torchrun, with tp_plan=auto"
MIB = 2**20  # SLURM counts memory in these


@dataclass(frozen=True)
class Use:
    """What a run would use.

    Attributes:
        gpus: that torch sees.
        on_gpu: the run is on one.
        threads: of the processor.
        bytes: of the processor's memory; None: not known, or none to speak of.
    """

    gpus: int
    on_gpu: bool
    threads: int
    bytes: int | None


def slurm(variables: Mapping[str, str], use: Use) -> list[Finding]:
    """The findings; one where there is nothing to say. Outside a job there is one that says so."""
    if not variables.get("SLURM_JOB_ID"):
        return [Finding(CHECK, "ok", "not in a job")]
    job = _Job(variables)
    found = [*_tasks(job), *_gpus(job, use), *_threads(job, use), *_memory(job, use)]
    facts = [f"job {variables['SLURM_JOB_ID']}"]
    if restarts := job.number("SLURM_RESTART_COUNT"):
        facts.append(f"restarted {restarts} times: a run goes on where it ended")
    for name, what in (("SLURM_CPUS_PER_TASK", "CPUs a task"), ("SLURM_GPUS_ON_NODE", "GPUs on this node")):
        if (number := job.number(name)) is not None:
            facts.append(f"{number} {what}")
    return [Finding(CHECK, "ok", ", ".join(facts)), *found]


def check_tasks(variables: Mapping[str, str]) -> None:
    """Raises UserError if srun has started this program several times, without torchrun to make one run of them."""
    tasks = _Job(variables).number("SLURM_STEP_NUM_TASKS") or 1
    if tasks > 1 and TORCHRUN not in variables:
        raise UserError(f"srun has started {tasks} tasks, and each would do the same run: {ONE}")


@dataclass(frozen=True)
class _Job:
    variables: Mapping[str, str]

    def number(self, name: str) -> int | None:
        value = self.variables.get(name, "").strip()
        return int(value) if value.isascii() and value.isdecimal() else None

    @property
    def gpus(self) -> int | None:
        """Allotted on this node."""
        listed = self.variables.get("SLURM_JOB_GPUS", "")
        number = self.number("SLURM_GPUS_ON_NODE")
        return len(listed.split(",")) if number is None and listed.replace(",", "").isdecimal() else number


def _tasks(job: _Job) -> Iterator[Finding]:
    tasks, started = job.number("SLURM_NTASKS") or 1, job.number("SLURM_STEP_NUM_TASKS")
    try:
        check_tasks(job.variables)
    except UserError as error:
        yield Finding(CHECK, "fails", str(error))
    if started is None and tasks > 1 and TORCHRUN not in job.variables:
        yield Finding(CHECK, "warning", f"the job has {tasks} tasks, and under srun each would do the same run", ONE)


def _gpus(job: _Job, use: Use) -> Iterator[Finding]:
    allotted, shown = job.gpus, job.variables.get("CUDA_VISIBLE_DEVICES")
    seen = f"torch sees {use.gpus}" + (f" with CUDA_VISIBLE_DEVICES={shown}" if shown is not None else "")
    if allotted is None and use.gpus:
        said = f"the job has asked for no GPU, and {seen}: they may be others'"
        yield Finding(CHECK, "warning", said, "ask for them with --gpus=N")
    elif allotted and not use.gpus:
        said = f"the job has {allotted} GPUs, and {seen}"
        yield Finding(CHECK, "fails", said, "see what nvidia-smi says there, and whether torch is a build for CUDA")
    elif allotted and use.gpus != allotted:
        said = f"the job has {allotted} GPUs, and {seen}"
        yield Finding(CHECK, "warning", said, "set CUDA_VISIBLE_DEVICES to those of the job")
    elif allotted and not use.on_gpu:
        yield Finding(CHECK, "warning", f"the job has {allotted} GPUs, and the run is on the CPU", "device=cuda")


def _threads(job: _Job, use: Use) -> Iterator[Finding]:
    cpus = job.number("SLURM_CPUS_PER_TASK")
    if cpus and use.threads > cpus:
        said = f"torch computes with {use.threads} threads, and the job has {cpus} CPUs for each task"
        yield Finding(CHECK, "warning", said, f"threads={cpus}")


def _memory(job: _Job, use: Use) -> Iterator[Finding]:
    limit = job.number("SLURM_MEM_PER_NODE")
    each, cpus = job.number("SLURM_MEM_PER_CPU"), job.number("SLURM_CPUS_ON_NODE")
    if limit is None and each and cpus:
        limit = each * cpus
    if limit and use.bytes and use.bytes > limit * MIB:  # 0 means all of the node
        said = f"the run needs {spoken(use.bytes)}, and the job has {spoken(limit * MIB)}"
        yield Finding(CHECK, "fails", said, "ask for more with --mem, or see the advice on memory")
