"""The text of `--help`, printed without importing Hydra; the option names are read from conf."""

from __future__ import annotations

from pathlib import Path

from ltx2.app.groups import defaults, describe_option, groups

_WIDTH = 19

_USAGE = """\
usage: launch.py [--prompt TEXT] [--negative-prompt TEXT] [GROUP=OPTION] [KEY=VALUE] ...

Text to video with sound. Without arguments it runs a small model that is part of the package.
"""

_KEYS = """\
Everyday keys (null means: what the model is meant to be run with)
  prompt           what to show; best given as --prompt TEXT, which needs no quoting of its own
  negative_prompt  what to keep away from; also --negative-prompt TEXT
  seed             same seed, same noise, on every backend
  height, width    pixels of the result
  frames, fps      length and speed of the clip
  snap             true rounds height, width and frames to the nearest size the model allows
  keep_loaded      models between the runs of a sweep: auto (if there is room), true or false
  plan             true prints sizes, cost, memory and what the cache holds, and runs nothing
  checks           off, warn, strict or keep_going: what to do about a suspicious result
  paths.outputs    folder for runs             paths.models   folder searched for weights
  scheduler.steps, guidance.video.cfg, lora.NAME.strength, output.crf ... --cfg job shows them all
"""

_EXAMPLES = """\
Examples
  launch.py --prompt 'a blue square moves left on a black background with a low tone'
  launch.py --prompt 'a calm sea at dawn' model=distilled-fp8 pipeline=distilled seed=3
  launch.py backend=mlx experiment=preview
  launch.py conditioning=image conditioning.image.path=cat.png
  launch.py -m seed=1,2,3 metrics=[basic]      a sweep: one run per value, compared on a page
  launch.py --cfg job model=dev                print the settings, run nothing
  launch.py task=train recipe=pocket           train a model, a part or a LoRA: docs/training.md
  launch.py task=evaluate evaluate.count=24    does the pocket model do what it is told?

Other commands (ltx2 NAME --help): options, dashboard, show, rerun, resume, diff, cache, pull,
convert, inspect, doctor, parity. Hydra's own: --info, --hydra-help.
"""


def help_text(conf: Path) -> str:
    """Usage, everyday keys, every group with its options, examples."""
    return "\n".join([_USAGE, _KEYS, _group_lines(conf), _EXAMPLES])


def _group_lines(conf: Path) -> str:
    chosen = defaults(conf)
    lines = ["Groups, their options (* default)"]
    for group, options in groups(conf).items():
        several = ", several as a list" if chosen.get(group) == "[]" else ""
        lines.append(f"  {group}{several}")
        for option in options:
            mark = "*" if option == chosen.get(group) else " "
            lines.append(f"   {mark} {option:{_WIDTH}} {describe_option(conf, group, option)}")
    return "\n".join(lines) + "\n"
