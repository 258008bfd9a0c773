"""The paper's table on real photos: students distilled on synthetic images only, measured on photos of four domains.

    python -m benchmarks.photos --data DIR [--domain food ...] [--arm l2 ...] [--fewer-params 92] [--seeds 1]
    python -m benchmarks.photos --data DIR --levers

For each domain: images of its classes by the starter generator, a base student that has seen photos of none of them,
then one student for each arm (see ``arms.py``), with the same images, start, steps and seed. Nothing is chosen by the
photos: every arm trains a fixed number of steps, its averaged weights are measured once. Levers are tried on
animals and judged by held-out synthetic images and by the agreement with the teacher on training photos. Classes that
the starter generator cannot draw are left out, and counted in the results. It draws no places: a generator is trained
for them first, on the training photos, as the starter's was.

Results go to ``docs/results`` (``photos.json``, ``photos.md``, plots); a second call adds to them and repeats nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.photos.arms import ARMS, BATCH, RATE, levers
from benchmarks.photos.bench import DomainBench
from benchmarks.photos.domains import TUNING, read_domains
from benchmarks.photos.generator import own_generator
from benchmarks.photos.judge import Judge
from benchmarks.photos.results import add_result, write_results
from benchmarks.stages_here import merged
from starter.classes import DOMAINS
from starter.students import teacher_name


def main(
    data: Annotated[Path, typer.Option(exists=True, file_okay=False, help="Folder of the Tiny ImageNet files.")],
    domain: Annotated[list[str] | None, typer.Option(help="Only this domain (may be repeated).")] = None,
    arm: Annotated[list[str] | None, typer.Option(help="Only this arm or lever (may be repeated).")] = None,
    only_levers: Annotated[bool, typer.Option("--levers", help="All levers, on training photos of animals.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each arm.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Steps on synthetic images.")] = 600,
    base_steps: Annotated[int, typer.Option(min=1, help="Steps of the base student on photos.")] = 2000,
    images_per_class: Annotated[int, typer.Option(min=10)] = 300,
    generator_minutes: Annotated[float, typer.Option(min=0.01, help="Training of the generator of places.")] = 22,
    fewer_params: Annotated[float, typer.Option(help="Per cent fewer parameters than the teacher's tower.")] = 92,
    image_size: Annotated[int, typer.Option(min=16, help="What students see, in pixels; photos have 64.")] = 64,
    work: Annotated[Path, typer.Option(help="Images and students; what is there is used.")] = Path("build/photos"),
    out: Annotated[Path, typer.Option(help="Folder of the results.")] = Path("docs/results"),
) -> None:
    work /= teacher_name()  # images and students of another edition's are not used
    changed = levers(images_per_class, steps)
    arms = arm or (["l2", *changed] if only_levers else list(ARMS))
    if unknown := [name for name in arms if name not in ARMS and name not in changed]:
        known = ", ".join([*ARMS, *changed])
        raise typer.BadParameter(f"no arm or lever {unknown[0]!r}; there are {known}", param_hint="--arm")
    base: dict[str, Any] = {
        "student": {"fewer_params": fewer_params, "image_size": image_size},
        "data": {
            "images_per_class": images_per_class,
            "filter": {"max_attempts": 20},
            "prompts": {"dimensions": {"setting": ["in bright light", "at night", "white background", "in daylight"]}},
        },
        "training": {"batch_size": BATCH, "lr": RATE, "steps": steps},
    }
    for one in read_domains(data, domain or ([TUNING] if only_levers else list(DOMAINS))):
        recipe = base
        if one.own_generator:
            folder = own_generator(data, one, generator_minutes, work)
            recipe = merged(base, {"data": {"generator": {"model": str(folder), "steps": 1, "guidance": 0}}})
        bench = DomainBench(data, one, recipe, base_steps, changed, work)
        judge = None if one.name == TUNING else Judge(bench, work / "corrupted" / one.name)
        for seed in range(seeds):
            for name in arms:
                report = bench.report(name, seed)
                extra = judge.accuracies(bench.student(name, seed)) if judge else {}
                length: dict[str, float] = {"steps": steps, "base_steps": base_steps}
                if one.own_generator:
                    length["generator_minutes"] = generator_minutes
                add_result(out, domain=one, arm=name, seed=seed, length=length, report=report, extra=extra)
    write_results(out)


if __name__ == "__main__":
    typer.run(main)
