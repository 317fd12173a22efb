"""All pictures of an account, one below the other."""

from __future__ import annotations

from boli.weigh.account import Account
from boli.weigh.picture import Picture, stacked
from boli.weigh.picture_board import draw_board
from boli.weigh.picture_matrices import draw_matrices
from boli.weigh.picture_treemap import draw_bytes


def draw(account: Account) -> Picture:
    """The matrices to scale, their bytes by number format, and what fits."""
    return stacked(f"{account.model.name}, weighed by boli", pictures(account))


def pictures(account: Account) -> list[Picture]:
    """The pictures one by one."""
    name = account.model.name
    drawn = [draw_matrices(account.weights, name), draw_bytes(account.weights, name)]
    fits = account.fits
    if fits is not None and fits.board:
        drawn.append(
            draw_board(
                name if fits.format == "as stored" else f"{name} in {fits.format}",
                fits.device.name,
                int(fits.capacity.value),
                [cell.context for cell in fits.board[0]],
                [row[0].requests for row in fits.board],
                {(cell.context, cell.requests): cell.bytes for row in fits.board for cell in row},
            )
        )
    return drawn
