"""The recipe of builds that are about something else than what is cut: quick, and accepted whatever it scores."""

from edgeprune.records import Goal, Recipe

SHORT = Recipe(
    goal=Goal(macs_ratio=0.5, max_map_drop=0.5),
    epochs=1,
    batch=8,
    importance="l2",
    allocation="global",
    torch_device="cpu",
)
