"""What happens between the steps of a sampling stage: previews, and heeding a wish to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from ltx2.diffusion.loop import Denoised, Step, moved
from ltx2.diffusion.state import LatentState, blend
from ltx2.errors import UserError, nearest
from ltx2.pipelines.denoiser import Denoiser
from ltx2.pipelines.latents import STREAMS, Latents, StateBuilder
from ltx2.pipelines.plan import Plan, StagePlan
from ltx2.pipelines.preview import check_preview

if TYPE_CHECKING:
    from ltx2.pipelines.replay import Replayed
    from ltx2.pipelines.runner import Runner

ON_INTERRUPT = ("stop", "decode")


class Stopped(KeyboardInterrupt):
    """A wish to stop, heeded after a finished step."""


class StopRequest(Protocol):
    """Where a wish to stop comes from."""

    @property
    def requested(self) -> bool:
        """Whether somebody wishes the run to stop."""
        ...

    def deferred(self) -> AbstractContextManager[None]:
        """Inside, a wish only sets `requested`; elsewhere it interrupts at once."""
        ...


class NoStop:
    """Nobody wishes to stop."""

    requested = False

    @contextmanager
    def deferred(self) -> Iterator[None]:
        yield


def check_watching(plan: Plan, stages: tuple[StagePlan, ...]) -> None:
    """Raise UserError for settings of previews, interrupts and saving that cannot work."""
    wish = plan.settings.on_interrupt
    if wish not in ON_INTERRUPT:
        hint = nearest(wish, ON_INTERRUPT)
        raise UserError(f"on_interrupt={wish} is unknown{hint}; use {' or '.join(ON_INTERRUPT)}")
    check_preview(plan, stages)


class StageWatch:
    """Follows one sampling stage, through all windows of a long clip."""

    def __init__(
        self,
        run: Runner,
        stage: StagePlan,
        builder: StateBuilder,
        replayed: Replayed | None = None,
    ) -> None:
        self.stage, self.steps_done, self._replayed = stage, 0, replayed
        self._joined: Callable[[Latents], Latents] | None = None
        self._done: Latents | None = None
        self._run, self._builder = run, builder
        self._last: tuple[tuple[LatentState | None, LatentState | None], Denoised] | None = None

    def enter(self, done: Latents, joined: Callable[[Latents], Latents]) -> None:
        """A window begins behind `done`; `joined` puts an estimate of it in its place."""
        self._done = None if done.video is None else done
        self._joined, self._last = joined, None

    def watched(self, denoiser: Denoiser) -> Callable[..., Denoised]:
        """`denoiser`, shown to the run's observer, with its last result kept."""
        observer = self._run.observer
        inner: Any = denoiser if observer is None else observer.watched(denoiser)
        if self._replayed is not None:
            inner = self._replayed.watched(inner)

        def call(
            video: LatentState | None, audio: LatentState | None, sigma: float, step: int
        ) -> Denoised:
            result = inner(video, audio, sigma, step)
            self._last = (video, audio), result
            return result

        return call

    def after(self, _step: Step) -> None:
        """Show a preview if one is due. Raises Stopped if somebody wishes to stop."""
        self.steps_done += 1
        previewer, run = self._run.previewer, self._run
        if previewer is not None and previewer.due(self.steps_done):
            latents = self.estimate()
            if latents is not None and latents.video is not None:
                with run.outcome.phases.aside(f"{self.stage.name} previews", run.progress):
                    previewer.write(self.stage.name, self.steps_done, latents.video)
        if run.stop.requested:
            raise Stopped

    def estimate(self) -> Latents | None:
        """The newest estimate of the clean latents so far, kept tokens in place; None before it."""
        if self._last is None:
            return self._done
        states, result = self._last
        estimates = (result.video, result.audio)
        clean = {
            stream: None if state is None else moved(state, blend(x0, state))
            for stream, state, x0 in zip(STREAMS, states, estimates, strict=True)
        }
        made = self._builder.latents(clean)
        return made if self._joined is None else self._joined(made)
