"""Choice of points that leaves no point far from all chosen ones."""

import torch


@torch.no_grad()
def farthest_points(points: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose a random point, then again and again the point that is farthest from all chosen ones.

    This is the k-center greedy algorithm of Sener and Savarese (ICLR 2018, https://arxiv.org/abs/1708.00489). It makes
    the choices of anomalib's ``KCenterGreedy`` without a random projection, and needs no memory for each choice.

    Args:
        points (torch.Tensor): Points ``(n, C)``.
        count (int): Number of points to choose, from 1 to n.

    Returns:
        tuple[torch.Tensor, torch.Tensor]: Indices of the chosen points ``(count,)``, and squared distances of all
        points to the nearest chosen one ``(n,)``; 0 for the chosen ones.

    Raises:
        ValueError: If there are fewer points than should be chosen, or none should be.

    Example:
        >>> points = torch.tensor([[0.0], [1.0], [9.0]])
        >>> chosen, squared = farthest_points(points, 2)
        >>> sorted(chosen.tolist()) != [0, 1], int(squared.max())
        (True, 1)
    """
    if not 1 <= count <= len(points):
        msg = f"count is between 1 and the number of points, {len(points)}, got {count}."
        raise ValueError(msg)
    squares = points.square().sum(dim=1)
    nearest, latest = torch.full_like(squares, torch.inf), torch.empty_like(squares)
    chosen = torch.empty(count, dtype=torch.long, device=points.device)
    for step in range(count):
        chosen[step] = nearest.argmax() if step else torch.randint(len(points), (), device=points.device)
        center = points[chosen[step]]
        # |a - b|^2 = |a|^2 - 2 ab + |b|^2, in memory that is already allocated: of new blocks the allocator kept one
        # for every choice, 2 MB each when choosing from 350 MB of points.
        torch.addmv(squares, points, center, alpha=-2, out=latest)
        latest += center @ center
        torch.minimum(nearest, latest, out=nearest)
        nearest[chosen[step]] = 0
    return chosen, nearest.clamp_min(0)
