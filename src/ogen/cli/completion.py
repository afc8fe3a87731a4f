"""`ogen completion`: what a shell needs to complete ogen's commands and options."""

from __future__ import annotations

import click

from . import console


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script.

    \b
    bash:  ogen completion bash > ~/.local/share/bash-completion/completions/ogen
    zsh:   ogen completion zsh > "${fpath[1]}/_ogen"
    fish:  ogen completion fish > ~/.config/fish/completions/ogen.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"this version of click knows no completion for {shell}")
    console.raw(found(ctx.find_root().command, {}, "ogen", "_OGEN_COMPLETE").source())
