"""Which tokens a role means, and which token of the donor stands in for which token of the receiver.

Two forms of a request differ in length, so tokens are matched role by role: a block of n receiver tokens takes the donor's block
stretched over it, which is the identity where both have the same length. What that costs is measured by patching everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Int
from torch import Tensor

from safesteer_interp.errors import UsageError, did_you_mean
from safesteer_interp.sites import Role

TokenRole = Literal["system", "image", "user", "template", "last"]
"""The last prompt token is a template token; "template" means the others."""
ROLES: tuple[TokenRole, ...] = get_args(TokenRole)

RowRoles = Int[Tensor, " sequence"]
Positions = Int[Tensor, " k"]


def blocks(roles: RowRoles) -> dict[str, Tensor]:
    """The tokens [sequence, no padding] of one prompt in blocks that correspond between forms of a request, by name.

    "template" falls into what stands before the image, between image and user text, and after the user text.
    """
    place = torch.arange(len(roles))
    last = place == len(roles) - 1
    user, image = ((roles == int(role)) & ~last for role in (Role.USER, Role.IMAGE))
    written = place[user] if user.any() else place[-1:]
    template = (roles == int(Role.TEMPLATE)) & ~last
    first_image = int(place[image][0]) if image.any() else int(written[0])
    return {
        "system": place[(roles == int(Role.SYSTEM)) & ~last],
        "image": place[image],
        "user": place[user],
        "template before": place[template & (place < first_image)],
        "template between": place[template & (place > first_image) & (place < written[0])],
        "template after": place[template & (place > written[-1])],
        "last": place[last],
    }


def check_roles(roles: Sequence[str]) -> None:
    """Raises UsageError for an unknown role, and when none is named."""
    if not roles:
        raise UsageError(f"name at least one token role: {', '.join(ROLES)}.")
    for role in roles:
        if role not in ROLES:
            raise UsageError(f'no token role is called "{role}".{did_you_mean(role, ROLES)}')


def positions(roles: RowRoles, wanted: Sequence[str]) -> Positions:
    """Where the tokens of these roles are, in order. Raises UsageError for an unknown role."""
    check_roles(wanted)
    found = [where for name, where in blocks(roles).items() if name.split()[0] in wanted]
    return torch.cat(found).sort().values


def matched(donor: Int[Tensor, " donor"], receiver: Int[Tensor, " receiver"], wanted: Sequence[str]) -> tuple[Positions, Positions]:
    """(receiver, donor) positions [k] of the tokens of these roles, matched block by block; receiver tokens are in order.

    A block that one of the two lacks (a text request has no image) is left alone. Raises UsageError for an unknown role.
    """
    check_roles(wanted)
    theirs, mine = [torch.empty(0, dtype=torch.long)], [torch.empty(0, dtype=torch.long)]
    of_donor = blocks(donor)
    for name, here in blocks(receiver).items():
        there = of_donor[name]
        if name.split()[0] in wanted and len(here) and len(there):
            mine.append(here)
            theirs.append(there[torch.linspace(0, len(there) - 1, len(here), dtype=torch.float64).round().long()])
    order = torch.cat(mine).argsort()
    return torch.cat(mine)[order], torch.cat(theirs)[order]
