"""How a step's rows become forward passes."""

from hypothesis import given
from hypothesis import strategies as st

from fusion.batching import Shape, plan_step, steps_of_epoch

lengths = st.lists(st.lists(st.integers(1, 500), min_size=2, max_size=2), min_size=1, max_size=60)
shapes = st.builds(
    Shape,
    batch_size=st.integers(1, 40),
    workers=st.integers(1, 5),
    tokens=st.integers(1, 4000),
    batching=st.sampled_from(["padded", "bucketed", "packed"]),
)


@given(lengths, shapes)
def test_every_row_of_a_step_counts_once_and_workers_make_equally_many_passes(sequences, shape):
    step = plan_step(range(len(sequences)), sequences, shape)
    counted = [row for own in step.passes for p in own if p.counts for row in p.rows]
    assert sorted(counted) == list(range(len(sequences)))
    assert len({len(own) for own in step.passes}) == 1


@given(lengths, shapes)
def test_passes_keep_to_the_budget_or_hold_one_row(sequences, shape):
    step = plan_step(range(len(sequences)), sequences, shape)
    for made in (p for own in step.passes for p in own):
        inside = [length for row in made.rows for length in sequences[row]]
        tokens = sum(inside) if shape.batching == "packed" else max(inside) * len(inside)
        assert tokens <= shape.tokens or len(made.rows) == 1


@given(lengths, shapes)
def test_the_rows_of_a_step_depend_on_neither_workers_nor_batching(sequences, shape):
    alone = Shape(shape.batch_size, 1, 10, "padded")
    steps = [
        [s.rows for s in steps_of_epoch(sequences, x, seed=1, epoch=0)] for x in (shape, alone)
    ]
    assert steps[0] == steps[1]


def test_each_epoch_has_an_order_of_its_own():
    shape = Shape(4, 1, 100, "bucketed")
    first, second = (
        [s.rows for s in steps_of_epoch([[9]] * 40, shape, seed=1, epoch=epoch)] for epoch in (0, 1)
    )
    assert first != second
    assert sorted(sum(first, ())) == sorted(sum(second, ())) == list(range(40))


def test_grouping_by_length_shares_tokens_out_and_pads_less():
    sequences = [[10 * (1 + index % 7) ** 2] for index in range(64)]
    made = {
        batching: plan_step(range(64), sequences, Shape(64, 2, 2000, batching))
        for batching in ("padded", "bucketed")
    }

    def computed(own):
        return sum(max(sequences[r][0] for r in p.rows) * len(p.rows) for p in own)

    assert 1.3 * computed(made["bucketed"].passes[0]) < computed(made["padded"].passes[0])
    loads = [sum(sequences[r][0] for p in own for r in p.rows) for own in made["bucketed"].passes]
    assert max(loads) < 1.05 * min(loads)
