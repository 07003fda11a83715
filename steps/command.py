"""RELION command lines: `[mpirun ... -np N] relion_program[_mpi] --option value ...`."""

import hashlib
import json
import re
from dataclasses import dataclass, replace
from pathlib import PurePath

_PROGRAM = re.compile(r"relion_[a-z0-9_]+")
_REFINE = re.compile(r"relion_refine(_mpi)?")


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


COMPUTE_OPTIONS = _names(
    """--j --pool --scratch_dir --keep_free_scratch --reuse_scratch --keep_scratch --gpu
    --free_gpu_memory --preread_images --no_parallel_disc_io --dont_combine_weights_via_disc
    --onthefly_shifts --pipeline_control --verb --cpu"""
)
"""How a run computes, not what: a later attempt may differ in them."""

CONTINUE_OPTIONS = COMPUTE_OPTIONS | _names(
    """--iter --skip_align --skip_rotate --bimodal_psi --center_classes --skip_maximize
    --auto_ignore_angles --auto_resol_angles --allow_coarser_sampling --auto_iter_max
    --solvent_correct_fsc --external_reconstruct --skip_gridding --trust_ref_size --always_cc
    --failsafe_threshold --strict_highres_exp --maxsig --lowpass_mask --lowpass
    --helical_offset_step --skip_subtomo_multi --normalised_subtomo --ctf3d_not_squared
    --subtomo_multi_thr --minimum_angular_sampling --maximum_angular_sampling --no_map
    --minres_map --gridding_iter --abort_at_resolution --sigma2_fudge --use_all_data
    --only_sample_tilt --always_join_random_halves"""
)
"""What `--continue` must be given again. RELION stores the rest in optimiser.star; these it takes
from the command line alone, and left out they silently change the run (`--skip_align`).
https://github.com/3dem/relion/blob/ver3.1/src/ml_optimiser.cpp (MlOptimiser::parseContinue)
"""

Option = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Command:
    """A RELION program with what stands before it and its options, in their order."""

    prefix: tuple[str, ...]
    program: str
    options: tuple[Option, ...]
    loose: tuple[str, ...] = ()
    """Words between the program and its first option."""

    @property
    def name(self) -> str:
        """The program without its folder."""
        return PurePath(self.program).name

    @property
    def mpi(self) -> bool:
        return self.name.endswith("_mpi")

    @property
    def refine(self) -> bool:
        """relion_refine with a root to write to, so something that can be continued."""
        return _REFINE.fullmatch(self.name) is not None and bool(self.value("--o"))

    @property
    def gradient(self) -> bool:
        """Its iterations are mini-batches, their number the sum of its phases."""
        return self.has("--sgd") or self.has("--grad")

    @property
    def auto_refine(self) -> bool:
        return self.has("--auto_refine")

    @property
    def argv(self) -> list[str]:
        words = [word for name, values in self.options for word in (name, *values)]
        return [*self.prefix, self.program, *self.loose, *words]

    def has(self, name: str) -> bool:
        return any(option == name for option, _ in self.options)

    def value(self, name: str) -> str:
        """Its first value, as RELION reads it; empty when absent."""
        return next((values[0] for option, values in self.options if option == name and values), "")

    def replaced(self, name: str, *values: str) -> "Command":
        """With this option once, in its old place or at the end."""
        if not self.has(name):
            return replace(self, options=(*self.options, (name, values)))
        first = next(i for i, (option, _) in enumerate(self.options) if option == name)
        kept = tuple(
            (name, values) if i == first else item
            for i, item in enumerate(self.options)
            if i == first or item[0] != name
        )
        return replace(self, options=kept)

    def added(self, name: str, *values: str) -> "Command":
        """With this option, unless it has one already."""
        return self if self.has(name) else self.replaced(name, *values)

    def only(self, names: frozenset[str]) -> "Command":
        return replace(self, options=tuple(item for item in self.options if item[0] in names))


def parse(argv: list[str]) -> Command | None:
    """The command in `argv`; None when there is no RELION program in it."""
    at = next((i for i, x in enumerate(argv) if _PROGRAM.fullmatch(PurePath(x).name)), None)
    if at is None:
        return None
    loose: list[str] = []
    options: list[tuple[str, list[str]]] = []
    for word in argv[at + 1 :]:
        if word.startswith("--"):
            options.append((word, []))
        elif options:
            options[-1][1].append(word)
        else:
            loose.append(word)
    frozen = tuple((name, tuple(values)) for name, values in options)
    return Command(tuple(argv[:at]), argv[at], frozen, tuple(loose))


def fingerprint(command: Command) -> str:
    """Equal for commands that compute the same thing, on any number of ranks and threads."""
    what = sorted(item for item in command.options if item[0] not in COMPUTE_OPTIONS | {"--iter"})
    text = json.dumps([command.name.removesuffix("_mpi"), what])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def continued(command: Command, *, optimiser: str, root: str) -> Command:
    """The command that goes on from `optimiser` and writes under `root`.

    `--iter` would override the sum of the phases of a gradient run, so it is left out there.
    """
    again = command.only(CONTINUE_OPTIONS - {"--iter"} if command.gradient else CONTINUE_OPTIONS)
    head: tuple[Option, ...] = (("--continue", (optimiser,)), ("--o", (root,)))
    return replace(again, options=head + again.options)
