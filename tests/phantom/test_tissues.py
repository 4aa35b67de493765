"""Values of tissues in CT and MR."""

from __future__ import annotations

from nnunet_ext.phantom.tissues import CT, T1, T2, TISSUES


def test_tissues_are_ordered_as_on_real_images():
    ct, t1, t2 = ({tissue: values[channel] for tissue, values in TISSUES.items()} for channel in (CT, T1, T2))
    assert ct["air"] < ct["fat"] < ct["csf"] < ct["grey"] < ct["marrow"] < ct["cortical"] < ct["tooth"]
    assert t1["csf"] < t1["grey"] < t1["white"] < t1["fat"]
    assert t2["white"] < t2["grey"] < t2["csf"]
    assert t2["cortical"] < t2["muscle"] < t2["vitreous"]


def test_the_chiasm_stands_out_on_t2_only():
    chiasm, cistern = TISSUES["chiasm"], TISSUES["cistern"]
    assert abs(chiasm[CT] - cistern[CT]) < 15  # HU, about the noise
    assert cistern[T2] > 2 * chiasm[T2]
