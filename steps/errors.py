"""Errors of scsched. The class says what the caller can do about it.

ScschedError                 shown to the user as one line; `exit_code` is stable
├── WorkflowError       65   the submitted file is wrong at a JSON path
├── UsageError           2   an argument makes no sense
├── ConfigError          3   the configuration is wrong; names key and file
├── StoreError           3   the database
│   ├── StoreBusy       75   locked by somebody else for too long; repeat
│   ├── StoreFull        3   no space left; nothing was written
│   └── StoreLost       75   the server went away; whether a commit happened is unknown
├── StaleStep            1   somebody else moved the step first; read again
├── Fenced               1   somebody else was put in the caller's place; stop
├── NotFound           102   no such workflow or step
├── PermissionDenied   107   it belongs to somebody else
├── BrokerUnreachable   75   no broker answers; repeat when it runs
└── Infeasible         105   nothing configured can run it
"""


class ScschedError(Exception):
    """Base of every error that scsched raises on purpose.

    `code` is the stable word in JSON answers, `hint` what to do next.
    """

    exit_code = 1
    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class WorkflowError(ScschedError):
    """The workflow file is wrong at `where`, a JSON path such as `$[3].numberOfMpi`."""

    exit_code = 65
    code = "workflow"

    def __init__(self, where: str, problem: str, *, hint: str = "") -> None:
        super().__init__(f"{where}: {problem}", hint=hint)
        self.where = where
        self.problem = problem


class UsageError(ScschedError):
    exit_code = 2
    code = "usage"


class ConfigError(ScschedError):
    exit_code = 3
    code = "config"


class StoreError(ScschedError):
    exit_code = 3
    code = "store"


class StoreBusy(StoreError):
    exit_code = 75
    code = "store_busy"


class StoreFull(StoreError):
    code = "store_full"


class StoreLost(StoreError):
    exit_code = 75
    code = "store_lost"


class StaleStep(ScschedError):
    """The step is no longer in a state, or under an epoch, that allows the move."""

    code = "stale"

    def __init__(self, step_id: int, target: str, found: str) -> None:
        super().__init__(f"step {step_id} is {found} and cannot become {target}")
        self.step_id = step_id


class Fenced(ScschedError):
    """Whoever asks was given up, and has to stop."""

    code = "fenced"


class NotFound(ScschedError):
    exit_code = 102
    code = "not_found"


class PermissionDenied(ScschedError):
    exit_code = 107
    code = "permission"


class BrokerUnreachable(ScschedError):
    exit_code = 75
    code = "unreachable"


class Infeasible(ScschedError):
    exit_code = 105
    code = "infeasible"
