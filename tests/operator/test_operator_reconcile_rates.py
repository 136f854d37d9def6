"""What a service is sized for: declared, assumed, or learned from its traffic; up fast, down slowly."""

from hypothesis import given
from hypothesis import strategies as st
from reconcile_objects import NAMESPACE, model, node, pool, seen, service, variant
from reconcile_world import World

from isochrone.demand import Load, SizeShare
from isochrone.units import MINUTE, SECOND
from isochrone_operator.reconcile.memory import Learned, Memory, memory_of, memory_text
from isochrone_operator.reconcile.rates import NOTHING_LEARNED, sized

OWN = Load(
    expected_rate_rps=10, peak_rate_rps=20, burst=5, sizes=(SizeShare(size=1, share_ppm=1_000_000),)
)
KEY = f"{NAMESPACE}/tags"


def after(known: Learned, peak: float, minutes: list[float]) -> Learned:
    """Return what is learned when the traffic peaks at ``peak`` at each of ``minutes``."""
    for minute in minutes:
        traffic = seen(KEY, rate_rps=peak / 2, peak_rate_rps=peak)
        known = sized(OWN, known, traffic, round(minute * MINUTE)).learned
    return known


def test_more_traffic_counts_after_a_minute() -> None:
    assert after(NOTHING_LEARNED, 60, [0, 0.5]).peak == 0
    learned = after(NOTHING_LEARNED, 60, [0, 0.5, 1])
    assert (learned.expected, learned.peak) == (38, 75)
    assert sized(OWN, learned, None, 0).load.peak_rate_rps == 75


def test_a_spike_of_half_a_minute_teaches_nothing() -> None:
    known = after(NOTHING_LEARNED, 60, [0, 0.5])
    known = after(known, 10, [0.6])
    assert known == NOTHING_LEARNED
    assert after(known, 60, [1.2]).peak == 0


def test_less_traffic_counts_after_a_quarter_of_an_hour_and_never_below_the_own_load() -> None:
    grown = after(NOTHING_LEARNED, 160, [0, 1])
    assert grown.peak == 200
    assert after(grown, 40, [2, 16]).peak == 200
    assert after(grown, 40, [2, 17]).peak == 50
    assert after(grown, 5, [2, 17]) == NOTHING_LEARNED


@given(
    peaks=st.lists(st.floats(0, 1000), max_size=40),
    step=st.integers(1, 600),
)
def test_a_load_is_never_below_the_own_and_steady_traffic_comes_to_rest(
    peaks: list[float], step: int
) -> None:
    known, now = NOTHING_LEARNED, 0
    for peak in peaks:
        now += step * SECOND
        traffic = seen(KEY, rate_rps=peak / 2, peak_rate_rps=peak)
        result = sized(OWN, known, traffic, now)
        known = result.learned
        assert result.load.peak_rate_rps >= OWN.peak_rate_rps
        assert result.load.expected_rate_rps <= result.load.peak_rate_rps
    last = peaks[-1] if peaks else 0.0
    known = after(known, last, [now / MINUTE + it for it in range(1, 40)])
    rest = after(known, last, [now / MINUTE + it for it in range(40, 80)])
    assert rest == known


def test_what_was_learned_survives_a_restart() -> None:
    memory = Memory(changed_at=5, learned={"tags": Learned(expected=38, peak=75, above_since=7)})
    cluster = World(nodes=[node("n1")]).add(pool(), model(), variant("fast"), service("tags"))
    cluster.look()
    metadata = cluster.plan().metadata
    stored = cluster.plan().model_copy(
        update={
            "metadata": metadata.model_copy(
                update={"annotations": {"isochrone.dev/memory": memory_text(memory)}}
            )
        }
    )
    assert memory_of(stored) == memory


def test_a_service_without_a_load_grows_with_its_traffic() -> None:
    cluster = World(nodes=[node(f"n{it}") for it in range(8)])
    cluster.add(pool(), model(), variant("fast", p50_ms=20), service("tags", load=None))
    cluster.settle()
    before = sum(cluster.groups().values())
    cluster.traffic = {KEY: seen(KEY, rate_rps=80.0, peak_rate_rps=120.0)}
    cluster.look()
    assert sum(cluster.groups().values()) == before
    cluster.now += MINUTE
    cluster.settle()
    assert sum(cluster.groups().values()) > before
    assert memory_of(cluster.plan()).learned["tags"].peak == 150


def test_traffic_that_cannot_be_planned_for_costs_nobody_what_runs() -> None:
    cluster = World(nodes=[node("n1")])
    cluster.add(pool(), model(), variant("fast", p50_ms=20), service("tags"))
    cluster.settle()
    cluster.traffic = {KEY: seen(KEY, rate_rps=80.0, peak_rate_rps=120.0)}
    cluster.look()
    cluster.now += 2 * MINUTE
    cluster.look()
    assert cluster.variants_of("tags") == ["fast"]
    accepted = cluster.condition("tags", "PlanAccepted")
    assert accepted[0] == "True"
    assert "asks for more than could be planned" in accepted[2]
