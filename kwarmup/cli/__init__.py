"""The command line. Nothing heavy is imported before a command has work to do."""

import click

import kwarmup
from kwarmup.cli import export, find_lr, launch, noise, show, study, train, tune


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(kwarmup.__version__, prog_name="kwarmup")
def main() -> None:
    """Which batch size and learning rate to use, and how both should move during training."""


main.add_command(export.command, "export")
main.add_command(find_lr.command, "find-lr")
main.add_command(launch.command, "launch")
main.add_command(noise.command, "noise")
main.add_command(show.command, "show")
main.add_command(study.command, "study")
main.add_command(train.command, "train")
main.add_command(tune.command, "tune")
