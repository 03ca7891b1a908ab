"""Placement's settings."""

from oslo_config import cfg

from kilonova.core.config import Options

OPTIONS: Options = {
    "placement": [
        cfg.BoolOpt(
            "randomize_allocation_candidates",
            default=False,
            help="Answer allocation candidates in random order, so that callers who take the first spread over the providers.",
        ),
        cfg.IntOpt("max_allocation_candidates", default=-1, min=-1, help="Most allocation candidates that are made; -1: no limit."),
        cfg.StrOpt(
            "allocation_candidates_generation_strategy",
            default="depth-first",
            choices=["depth-first", "breadth-first"],
            help="Whether to make all candidates of one provider tree first, or one of each tree in turn.",
        ),
    ]
}
