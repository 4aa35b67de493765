import pytest

from nnunet_ext.installation.gpu_memory import (
    LEAST_TARGET_GB,
    PER_TARGET_GB,
    USABLE_SHARE,
    memory_target_gb,
    training_memory_gib,
)


@pytest.mark.parametrize(
    ("sold_as_gb", "card_gib", "target_gb"),
    [
        (6, 5.8, None),
        (8, 7.79, 5),
        (11, 10.9, 8),
        (12, 11.76, 9),
        (16, 15.7, 13),
        (24, 23.65, 22),
        (48, 47.5, 44),
        (80, 79.2, 74),
        (141, 139.8, 131),
    ],
)
def test_each_card_has_its_target_and_a_training_of_it_fits(sold_as_gb, card_gib, target_gb):
    assert memory_target_gb(card_gib) == target_gb
    if target_gb is not None:
        assert target_gb < card_gib
        assert target_gb > 40 or training_memory_gib(target_gb) <= USABLE_SHARE * card_gib


@pytest.mark.parametrize(("target_gb", "published_gb"), [(8, 9.1), (24, 22.7), (40, 36.6)])
def test_the_memory_of_a_target_is_nnunets_with_what_our_training_adds(target_gb, published_gb):
    """0.4 for AdamW and 0.2 for a batch before its crop, and 0.2 to spare."""
    assert published_gb + 0.4 <= training_memory_gib(target_gb) <= published_gb + 1.0


def test_a_larger_card_never_gets_a_smaller_target():
    targets = [memory_target_gb(tenths / 10) or 0 for tenths in range(1, 2000)]
    assert targets == sorted(targets)
    assert min(t for t in targets if t) == LEAST_TARGET_GB
    assert 0 < PER_TARGET_GB < 1
