"""The ``bioie`` command. Commands import what they need when they run, so that ``--help`` takes well under a second."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    name="bioie",
    help="Biomedical information extraction with language models, as jobs on Ray and Kubernetes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
CORPORA = ("bc5cdr", "ncbi_disease", "nlm_gene", "chemdner", "ddi_corpus", "biorelex")

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change a key of the recipe, or @FILE: all keys of a YAML file; repeatable"),
]
To = Annotated[str, typer.Option("--to", metavar="kube|ray", help="kube: a RayJob of its own; ray: a job on a standing Ray cluster")]
Namespace = Annotated[str, typer.Option("--namespace", "-n", help="where the job is")]
Context = Annotated[str | None, typer.Option("--context", help="of the kubeconfig, other than the current one")]
Address = Annotated[
    str | None,
    typer.Option("--address", metavar="URL", help="Ray's job server, http://HOST:8265; implies --to ray; else RAY_API_SERVER_ADDRESS"),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="print the tracebacks of failed shards")]


def _complete_corpus(incomplete: str) -> list[str]:
    return [name for name in CORPORA if name.startswith(incomplete)]


def _fail_in_one_message(command: Callable[..., None]) -> Callable[..., None]:
    """Errors that people can mend end as one message and exit code 1, never as a traceback."""

    @wraps(command)
    def wrapped(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except BrokenPipeError:
            raise  # `bioie show ... | head`: click ends quietly
        except OSError as error:
            print(f"error: {error.filename or 'the system'}: {error.strerror or error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt:
            print("stopped; run the same command again, it goes on where it stopped", file=sys.stderr)
            raise typer.Exit(130) from None

    return wrapped


def _print_version(wanted: bool) -> None:
    if wanted:
        from bioie_ray import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")] = False,
) -> None:
    """Options of the command itself."""


@app.command()
@_fail_in_one_message
def prepare(
    corpus: Annotated[str, typer.Argument(help=f"one of {', '.join(CORPORA)}", autocompletion=_complete_corpus)],
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="where to: STORE/corpora/NAME@VERSION, a folder or an s3:// URL")],
    source: Annotated[str | None, typer.Argument(help="folder or file of the release, or hub:ORG/NAME; left out with --download")] = None,
    download: Annotated[bool, typer.Option("--download", help="fetch the official release first")] = False,
    url: Annotated[list[str] | None, typer.Option("--url", help="with --download: fetch from here instead; repeatable")] = None,
    sha256: Annotated[
        list[str] | None, typer.Option("--sha256", help="with --download: expected checksums, in the order of the files")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Turn one corpus in its original format into parquet shards.

    For example: bioie prepare bc5cdr ~/CDR_Data --out store/corpora/bc5cdr@1
    """
    from bioie_ray.pipeline.prepare_command import prepare_corpus

    prepare_corpus(corpus, source, out, download=download, urls=url or (), sha256=sha256 or (), overrides=overrides or ())


@app.command()
@_fail_in_one_message
def show(
    output: Annotated[str, typer.Argument(metavar="DIR", help="any output: STORE/KIND/NAME@VERSION")],
    as_json: Annotated[bool, typer.Option("--json", help="the whole record as JSON")] = False,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="ID", help="of prompts or generations: what the model saw of this document, and what it said"),
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="which repeat, with --prompt")] = 1,
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server")] = None,
) -> None:
    """Print record, counts and provenance of an output, or one prompt as the model saw it."""
    if prompt is not None:
        from bioie_ray.pipeline.show_prompt import show_prompt

        show_prompt(output, prompt, repeat, endpoint=endpoint)
        return
    from bioie_ray.pipeline.show import show_output

    show_output(output, as_json=as_json, endpoint=endpoint)


@app.command()
@_fail_in_one_message
def run(
    recipe: Annotated[Path, typer.Argument(help="a YAML file of jobs/recipes/")],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would be done")] = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe here, with everything it needs: on a local Ray, or on the cluster of RAY_ADDRESS.

    For example: bioie run jobs/recipes/select_demo.yaml --set store=store
    """
    from bioie_ray.config.recipe import load_recipe
    from bioie_ray.pipeline.job import run_recipe

    run_recipe(load_recipe(recipe, overrides or ()), dry_run=dry_run, verbose=verbose)


@app.command()
@_fail_in_one_message
def render(
    recipe: Annotated[Path, typer.Argument(help="a YAML file of jobs/recipes/")],
    overrides: Overrides = None,
    image: Annotated[
        str | None, typer.Option("--image", metavar="REF", help="the image of all pods; else cluster.kube.image, else BIOIE_IMAGE")
    ] = None,
    kind: Annotated[str, typer.Option("--kind", help="rayjob, raycronjob, or raycluster (a standing one of the recipe's pods)")] = "rayjob",
    schedule: Annotated[str, typer.Option("--schedule", metavar="CRON", help="of a raycronjob")] = "30 2 * * *",
) -> None:
    """Print the manifest of a recipe, as kubectl apply takes it.

    For example: bioie render jobs/recipes/select_demo.yaml | kubectl apply -f -
    """
    from bioie_ray.cluster.render_command import render_recipe

    print(render_recipe(recipe, overrides or (), image=image, kind=kind, schedule=schedule), end="")


@app.command()
@_fail_in_one_message
def submit(
    recipe: Annotated[Path, typer.Argument(help="a YAML file of jobs/recipes/")],
    to: To = "kube",
    overrides: Overrides = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="stay until it is over: explain what it waits for, print the driver's log")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="a new job, though the same recipe was submitted before")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the manifest, and what the server would say to it")] = False,
    no_image_check: Annotated[bool, typer.Option("--no-image-check", help="do not look the image up in its registry")] = False,
    timeout: Annotated[float | None, typer.Option(help="stop following after so many seconds; else after the recipe's deadlines")] = None,
    patience: Annotated[float, typer.Option(help="seconds before giving up on what does not come right by itself")] = 60.0,
    context: Context = None,
    address: Address = None,
) -> None:
    """Submit a recipe to a cluster; the same recipe twice is one job.

    For example: bioie submit jobs/recipes/select_demo.yaml --to kube --follow
    """
    from bioie_ray.cluster.submit_command import submit as submit_recipe

    code = submit_recipe(
        recipe,
        overrides or (),
        to=to,
        follow=follow,
        again=again,
        dry_run=dry_run,
        check_image=not no_image_check,
        context=context,
        address=address,
        timeout_s=timeout,
        patience_s=patience,
    )
    raise typer.Exit(code)


@app.command()
@_fail_in_one_message
def status(
    name: Annotated[str | None, typer.Argument(help="of the job; left out: a list of all")] = None,
    to: To = "kube",
    namespace: Namespace = "bioie",
    as_json: Annotated[bool, typer.Option("--json")] = False,
    context: Context = None,
    address: Address = None,
) -> None:
    """Say where a submitted job stands and what it waits for."""
    from bioie_ray.cluster import job_commands

    job_commands.status(name, to=to, namespace=namespace, as_json=as_json, context=context, address=address)


@app.command()
@_fail_in_one_message
def logs(
    name: Annotated[str, typer.Argument(help="of the job")],
    to: To = "kube",
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="until the job is over, through lost connections and replaced pods")
    ] = False,
    workers: Annotated[bool, typer.Option("--workers", help="the pods of its Ray cluster too, each line with its pod")] = False,
    tail: Annotated[int | None, typer.Option(min=0, help="only so many last lines")] = None,
    store: Annotated[str | None, typer.Option(help="where the driver's log was kept, for a job that is gone altogether")] = None,
    endpoint: Annotated[str | None, typer.Option(help="of that store: URL of an S3-compatible server")] = None,
    namespace: Namespace = "bioie",
    context: Context = None,
    address: Address = None,
) -> None:
    """Print the logs of a submitted job: from its pods, or from its store once they are gone."""
    from bioie_ray.cluster import job_commands

    code = job_commands.logs(
        name,
        to=to,
        namespace=namespace,
        follow=follow,
        workers=workers,
        tail=tail,
        store=store,
        endpoint=endpoint,
        context=context,
        address=address,
    )
    raise typer.Exit(code)


@app.command()
@_fail_in_one_message
def cancel(
    name: Annotated[str, typer.Argument(help="of the job")],
    to: To = "kube",
    namespace: Namespace = "bioie",
    timeout: Annotated[float, typer.Option(help="seconds to wait until its last pod is gone")] = 120.0,
    context: Context = None,
    address: Address = None,
) -> None:
    """End a submitted job, and wait until no pod of it is left. What it finished stays in the store."""
    from bioie_ray.cluster import job_commands

    job_commands.cancel(name, to=to, namespace=namespace, timeout_s=timeout, context=context, address=address)


@app.command()
@_fail_in_one_message
def doctor(
    recipe: Annotated[Path | None, typer.Argument(help="check what this recipe needs; left out: the defaults")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    context: Context = None,
) -> None:
    """Check that everything is there: cluster, rights, operator, versions, GPUs, storage, image, models."""
    from bioie_ray.cluster.doctor import examine

    raise typer.Exit(examine(recipe, overrides or (), as_json=as_json, context=context))


@app.command()
@_fail_in_one_message
def report(
    outputs: Annotated[list[str], typer.Argument(metavar="DIR...", help="outputs, or whole stores")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="the page; CSV and JSON are put beside it")],
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server")] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", metavar="FILE.yaml", help="say which of its runs are missing; left out: what the scores there lack"),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Make one page of tables, plots, samples and provenance.

    For example: bioie report store --out report.html --recipe jobs/recipes/icl_grid_demo.yaml
    """
    from bioie_ray.config.recipe import load_recipe
    from bioie_ray.pipeline.report import make_report

    print(make_report(outputs, out, endpoint=endpoint, recipe=load_recipe(recipe, overrides or ()) if recipe else None))


@app.command()
@_fail_in_one_message
def review(
    output: Annotated[str, typer.Argument(metavar="DIR", help="STORE/dmcr/NAME@VERSION")],
    host: Annotated[str, typer.Option(help="address to listen on; other than loopback needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any free one")] = 0,
    token: Annotated[
        str | None, typer.Option(envvar="BIOIE_REVIEW_TOKEN", help="what a browser has to show; better by the environment than here")
    ] = None,
    export_: Annotated[
        Path | None, typer.Option("--export", metavar="FILE.jsonl", help="write decisions and open answers there, and do not serve")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.jsonl", help="take decisions made elsewhere, and do not serve")
    ] = None,
    endpoint: Annotated[str | None, typer.Option(help="URL of an S3-compatible server")] = None,
) -> None:
    """Open the page on which a person decides what two evaluators could not; run the recipe again to score with the decisions."""
    from bioie_ray.pipeline.review import review as review_output

    review_output(output, endpoint=endpoint, host=host, port=port, token=token, export=export_, import_=import_)


if __name__ == "__main__":
    app()
