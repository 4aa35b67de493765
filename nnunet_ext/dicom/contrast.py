"""The channel of a CT or MR series (CT, T1, T2 or none), by its header.

The words of a series are compared without case, accents and separators. Words of other series are listed with the kind
of image they name. They come from image types (PS3.3 C.8.3.1 and C.8.13), conformance statements of the scanners'
makers, and issues of dcm2niix and heudiconv.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from nnunet_ext.messages import Message

#: Words that may stand before T1 or T2 without a blank: `AXT1`, `3DT1`, `sT1W`.
_BEFORE = r"ax(?:i|ial)?|sag|cor|tra|obl|[23]d|wip|iso|ir|fs|t?se|fse|pre|post|ce|gd|pd|dp|ds|s"
#: Names of series that are neither a plain T1 nor a plain T2, as kind and words. All are whole words.
_SPECIAL = {
    "field map": r"field ?map\w*|fmaps?|d?b0|b1(?! ?(?:corr|filt))|b[01] ?map\w*|afi|phase ?diff\w*|shim(?:ming)?|场图",
    "diffusion": r"\w*dwi\w*|\w*adc|adc\w*|b[1-9]\d{2,3}|diff\w*|apparent diff\w*|trace\w*|\w*dti|dki|ivim|hardi|noddi|"
                 r"epi(?:2d|3d)?|ep[23]d\w*|fa map|col ?fa|弥散|扩散",
    "perfusion or dynamic": r"perf\w*|[p3]?c?asl|dsc|dce|(?:r|rel)?cb[fv]\w*|mtt|ttp|tmax|pwi|ktrans|dyn\w*|twist|tricks|"
                            r"disco|grasp|灌注|动态",
    "angiography": r"\w*mra|mrv|[23]d ?tof\w*|tof\w*|angio\w*|venogra\w*|inhance|venc\w*|pca|[23]d ?pc|pc ?[23]d|"
                   r"phase contrast|flow(?! ?comp)\w*|gefass\w*|血管",
    "T2*": r"swi(?:p|m)?|e?swan|qsm|suscept\w*|h(?:ae?|e)mo\w*|venobold|medic|merge|t2 ?(?:\*|star)\w*|me[23]d\w*|磁敏感",
    "function or motion": r"\w*fmri|bold|cine|tagg\w*|elasto\w*|mre|thermo\w*",
    "computed map": r"\w*maps?|map\w*|(?:sh)?molli|q ?t[12]\w*|t[12] ?(?:rho|\u03c1)|t[12] (?:values?|relax\w*)|despot\w*|"
                    r"relaxo\w*|r[12] ?(?:\*|star)\w*|r2s|mrf|hmri|mt ?sat|fingerprint\w*|mtr|pdff|fat ?frac\w*|定量",
    "synthetic": r"syn|synth\w*|sy ?mri?|sy ?t[12]|sy(?:t[12])\w*|magic|mdme|qalas|合成",
    "subtraction": r"sub(?! ?\d)|su[bp]s?tr\w*|soustr\w*|减影",
    "projection": r"m?mip\w*|minip|mnip|max ip|min ip|projection\w*|投影",
    "spectroscopy": r"mrsi?|svs|csi|spe[ck]tro\w*|波谱",
    "localizer or calibration": r"\w*scout\w*|\w*lo[ck]ali[sz]\w*|loc|survey\w*|scano\w*|topo(?:gram\w*)?|plan ?scan|"
                                r"(?:3|tri|three) ?pl(?:anes?|anar)?|smart ?brain|ubersicht\w*|reperage|\w*calib\w*|cal|"
                                r"coil ?(?:sens\w*|survey)|sense ?ref\w*|ref(?:erence)? ?scan|pre ?scan(?! ?norm)|定位|校准",
    "balanced gradient echo": r"ciss|\w*fiesta\w*|true? ?fisp|trufi\w*|b ?[tf]fe|\w*ssfp|dess|psif|balanced",
    "one of several inversions": r"inv(?:ersion)? ?[12](?!\d)|(?:1st|2nd|first|second) inv\w*",
    "real or imaginary part": r"real(?! ?time)|imag|imaginary|psir|phase sens\w*",
    "double inversion": r"dir|double inv\w*|双反转",
    "STIR": r"\w*stir",
    "fat or opposed phase": r"fat(?! ?(?:sat|sup|null|free|ex|s(?![a-z])))|fett(?! ?(?:ges|sat|unter))|opp(?:osed)?|oop|"
                            r"out ?(?:of ?)?phase\w*|i?p ?op|op ?ip|gegenphase|反相位?|脂像",
    "fluid": r"mrcp|myelo\w*|hydrogr\w*|水成像",
    "fusion": r"fusion|fused|融合",
}  # fmt: skip
#: Names of the images of a Dixon series, first for fat and opposed phase, then for water.
_DIXON = r"\w*dixon\w*|ideal|\w*flex|w ?f ?ip ?op"
_DIXON_FAT, _WATER = r"f|op|out|ff", r"w|water(?! ?(?:ex|sat|sup))|水像"
#: Phases that are no part of a complex image.
_PLAIN_PHASE = (
    r"in ?phase|(?:arterial|venous|portal|delay\w*|late|early|equilibrium) phase|(?:no )?phase ?(?:enc\w*|dir\w*|over\w*|os|"
    r"wrap|ap|pa|rl|lr|hf|fh|corr\w*)"
)
_PHASE = r"phase\w*|phs|pha"
_PROTON_DENSITY = r"pd|pd ?wi?|proton\w*|dp|质子"
_FLAIR = r"\w*flair\w*|tirm|da(?:rk)? ?fl(?:uid)?|压水|水抑制"
#: Sequences that weight a T2 by susceptibility. A T1 of such a sequence is a plain one.
_GRADIENT = r"\w*gre|eg|ffe|grass|flash|fl[23]d\w*|f[eg][23]d|field echo|(?:echo )?(?:de )?gradient\w*|\w*spgr"
#: These names say nothing beside T1 or T2, and are no plain image by themselves.
_WEAK = r"fa|r1|r2|mtc?|magnitude\d?|asset"
_T1_SEQUENCE = r"\w*mp ?rage\w*|mp2rage|\w*spgr|bravo|\w*vibe|lava\w*|e?thrive|tfl3d\w*"  # `cube t1` says T1 itself
#: FLAIR nulls the fluid with a longer inversion time. STIR nulls fat with a shorter one.
_FLUID_INVERSION_MS = 1500

_MEDIUM = (
    r"gd\w*|gad\w*|contrast\w*|kontrast\w*|km|ce|cemr\w*|enh\w*|inj\w*|dotarem|dotagraf|prohance|multihance|clariscan"
)
_WITH_AND_WITHOUT = (
    rf"(?:w|with|mit|avec) ?(?:and|und|u|et)? ?(?:wo|w o|without|ohne|sans)(?: (?:iv )?(?:{_MEDIUM}|c))?|"
    rf"(?:pre|vor)(?: and| und)? (?:post|nach)(?: (?:{_MEDIUM}))?"
)
_AFTER = (
    rf"post(?! ?(?:op|fossa|proc|treat|rt|surg|er))\w*|nach (?:{_MEDIUM}|gabe)|p ?km|apres|after|\+ ?(?:c|iv|{_MEDIUM})|"
    r"c ?\++|增强后"
)
_WITHOUT = (
    rf"pre(?:{_MEDIUM})?(?! ?(?:op|surg|rt|treat))|nativ\w*|plain|without|wo|w o|ohne|sans|avant|v(?:or)? (?:{_MEDIUM})|"
    rf"(?:no|non|not|kein|un)n? ?(?:iv )?(?:{_MEDIUM})|平扫|增强前|未增强|无增强"
)
_CONTRAST = rf"{_MEDIUM}|(?<=t1 )c(?! ?(?:spine|sp))|增强|强化|造影"
_NO_AGENT = (
    r"|none.*|no(?:t .*|\b.*)?|n ?/? ?a|n|0|-+|nil|without.*|w/?o.*|nativ.*|kein.*|ohne.*|sans.*|plain|无|没有|平扫"
)
_FAT = r"fat|fett|fs"
_FAT_SATURATED = (
    r"fs|fat ?s(?:at|up)\w*|fat s|fatnull\w*|spir|a?spair|chess|we|water ex\w*|watex|proset|sat graisse|"
    r"fett ?(?:ges|sat|unter)\w*|抑脂|压脂|脂肪抑制|脂肪饱和"
)
#: Values of ImageType and its like of computed images, or of another weighting. They are in lower case, `_` is a blank.
_OTHER_TYPES = (
    r"fluid attenuated|[tr]2 ?(?:\*|star).*|proton density|stir|e?adc.*|diffusion.*|trace\w*|fa|(?:.* )?maps?|mip|minip|"
    r"mnip|max ip|min ip|projection image|vrt|perfusion.*|asl|r?cb[fv]|mtt|ttp|pbp|angio.*|mra|tof|flow encoded|velocity.*|"
    r"subtract.*|sub|r1|r2|p|phase.*|r|real|i|imaginary|[pri] (?:ffe|se|ir|pca|tfe).*|psir|f|fat|f (?:ffe|se|tse).*|"
    r"fat fraction|ff|pdff|op|opp phase|opposed phase|out phase|out of phase|b0|b1|swi|qsm|suscept.*|metabolite.*|"
    r"std ?dev.*|standard deviation|temperature.*|fmri|bold|tagging|inv ?[12]"
)
#: SequenceName of Siemens: echo-planar, field map, T2*, balanced, perfusion, spectroscopy.
_OTHER_SEQUENCES = r"\*?(?:ep|fm\d|me\dd|swi|ci\dd|tfi|de\dd|ps\dd|tgse|csi|svs)"
_RAW_DATA_TYPES = {1: "phase", 2: "real", 3: "imaginary"}  # private element of GE


def _word(pattern: str, text: str) -> bool:
    return re.search(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", text) is not None


def _without(pattern: str, text: str) -> str:
    return re.sub(rf"(?<![a-z0-9])(?:{pattern})(?![a-z0-9])", " ", text)


def plain_words(text: str) -> str:
    """A name in lower case with single blanks, without accents. T1 and T2, and Chinese words, stand alone.

    `+` and `*` stay. `T1-Gewichtet_KM+` gives `t1 gewichtet km+`.
    """
    text = re.sub(r"(?<=[a-z]{2})(?=[A-Z])", " ", text)  # isoDWI, mocoMEMPRAGE
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if unicodedata.category(c) != "Mn").casefold()
    text = re.sub(r"(?<![a-z0-9])c-(?![a-z0-9])|(?<=[\s_(])-c(?![a-z0-9])", " native ", text)
    text = re.sub(r"[^\w+*]+|_", " ", text)
    text = re.sub(r"([^\x00-\x7f]+)", r" \1 ", text)
    weighted = r"(?:w(?:|i|td?|gt?|eighted)(?=fs|[tf]?se|tfe|ffe|spa?ir|[^a-z0-9]|$))?"  # T1W, T2WI, and T2WFS
    text = re.sub(rf"(?<![a-z0-9])((?:{_BEFORE})*)(t[12])(?=[23]d|(?![0-9])){weighted}", r" \1 \2 ", text)
    return re.sub(r"\s+", " ", text).strip()


def _agent(words: str) -> bool | None:
    """Whether a name says that contrast agent was given. None if it says nothing."""
    words = _without(_WITH_AND_WITHOUT, words)
    if _word(_AFTER, words.replace("+", " +")) or _word(r"c ?\+*\+", words):
        return True
    if _word(_WITHOUT, words):
        return False
    return True if _word(_CONTRAST, words) else None


def _special(words: str) -> str:
    """Kind of image that a name says beside, or instead of, T1 and T2. Empty for none."""
    for kind, pattern in _SPECIAL.items():
        if _word(pattern, words):
            return kind
    if _word(_DIXON, words) and _word(_DIXON_FAT, words):
        return "fat or opposed phase"
    if "mp2rage" in words and _word(r"t1 images?|ti ?[12]", words):
        return "computed map" if _word("t1 images?", words) else "one of several inversions"
    return "phase" if _word(_PHASE, _without(_PLAIN_PHASE, words)) else ""


def classify(text: Callable[[str], str], number: Callable[[str], float | None]) -> tuple[str, str, list[Message]]:
    """Channel of a series from its headers, why, and notes.

    The image type goes first. Phases, real parts, fat, maps and projections are no channel. Then names count, such as
    `T1`, `MPRAGE` and `T2`. SeriesDescription goes before ProtocolName, which may be that of the whole examination.
    Last come echo and repetition time. T1 has TE <= 30 ms and TR <= 1200 ms, T2 has TE >= 60 ms and TR >= 1500 ms. A
    name that the times contradict is not believed. Other languages and house names need the series file.

    Args:
        text: Value of an element by keyword, as text. Several values are joined by backslashes.
        number: Value of an element by keyword, None if it is missing or no number.

    Returns:
        `CT`, `T1`, `T2` or empty, one line of reasons, and messages such as `contrast_enhanced`.
    """
    modality = text("Modality")
    if modality == "CT":
        return "CT", "modality CT", []
    if modality != "MR":
        return "", "no CT or MR", []
    te, tr, ti = number("EchoTime"), number("RepetitionTime"), number("InversionTime")
    sequence = text("ScanningSequence").upper().split("\\")
    gradient = "GR" in sequence and "SE" not in sequence
    kinds = [k.strip().replace("_", " ") for k in text("ImageType").lower().split("\\")]
    kinds += [text("ComplexImageComponent").lower(), _RAW_DATA_TYPES.get(int(number("RawDataType") or 0), "")]
    kind = next((k for k in kinds if re.fullmatch(_OTHER_TYPES, k)), "")
    if kind:
        return "", f"its image type says {kind.upper()}", []
    if "EP" in sequence:
        return "", "it is echo-planar (diffusion, perfusion)", []
    if name := re.match(_OTHER_SEQUENCES, text("SequenceName").lower()):
        return "", f"its sequence {name[0]}... is none of a plain T1 or T2", []
    if text("AngioFlag") == "Y":
        return "", "it is an angiography", []
    if (number("DiffusionBValue") or 0) > 0:
        return "", "it is diffusion-weighted", []

    description, protocol = (plain_words(text(tag)) for tag in ("SeriesDescription", "ProtocolName"))
    words = description if _says_something(description) else f"{description} {protocol}".strip()
    special = _special(words)
    if special == "fat or opposed phase" and {"w", "water", "ip", "in phase"} & set(kinds):
        special = ""  # the protocol names all images of a Dixon, the type says which one this is
    pd, flair = _word(_PROTON_DENSITY, words), _word(_FLAIR, words)
    t1 = _word("t1", words) or _word(_T1_SEQUENCE, words)
    t2 = _word("t2", words)
    by_times = ""
    if te is not None and tr is not None:
        # A gradient echo with a longer echo time is weighted by susceptibility.
        if te <= (10 if gradient else 30) and (tr <= 1200 or (ti is not None and ti > 0 and tr <= 3000)):
            by_times = "T1"
        elif te >= 60 and tr >= 1500 and not gradient:
            by_times = "T2"
    times = "" if te is None or tr is None else f"TE {te:g} ms, TR {tr:g} ms"
    notes = (
        [Message("contrast_enhanced")] if _with_agent(text("ContrastBolusAgent"), kinds, description, protocol) else []
    )
    fat = [Message("fat_saturated")] if _fat_saturated(words, kinds, text("ScanOptions")) else []

    named = "T1" if t1 and not t2 else "T2" if t2 and not t1 else ""
    if special or (flair and named != "T1"):
        kind = special or "FLAIR or STIR"
        return "", f"its name says {f'{named} and ' if named else ''}a special sequence ({kind})", []
    if pd and t2 and not t1 and by_times == "T2":
        pass  # the late echo of a double echo
    elif pd or (t1 and t2) or (not named and _word(_WEAK, words)):
        return "", "its name says neither T1 nor T2 alone", []
    if (t2 or by_times == "T2") and ti is not None and ti > _FLUID_INVERSION_MS:
        return "", f"its inversion time of {ti:g} ms is that of a FLAIR", []
    if (t2 or by_times == "T2") and ("IR" in sequence or _word("ir", words)):
        return "", "it is a T2 with an inversion pulse (FLAIR, STIR)", []
    if "mp2rage" in words and ti is not None and ti > _FLUID_INVERSION_MS:
        return "", f"its inversion time of {ti:g} ms is that of a second inversion", []
    if named == "T2" and (gradient or _word(_GRADIENT, words)):
        return "", "its name says T2 but it is a gradient echo (T2*)", []
    if named:
        if te is not None and times and ((named == "T1" and te >= 60) or (named == "T2" and te < 30)):
            return "", f"its name says {named} but {times} does not", []
        return named, "named so" + (f", {times}" if times else ""), (notes if named == "T1" else []) + fat
    if by_times:
        return by_times, times, (notes if by_times == "T1" else []) + fat
    return "", f"neither its name nor its times say T1 or T2{f' ({times})' if times else ''}", []


def _says_something(words: str) -> bool:
    pattern = rf"t[12]|{_T1_SEQUENCE}|{_PROTON_DENSITY}|{_FLAIR}|{_WEAK}"
    return bool(_special(words)) or _word(pattern, words)


def _with_agent(agent: str, kinds: list[str], description: str, protocol: str) -> bool:
    """Whether contrast agent was given. The series' own name goes before the examination's and the header's agent."""
    said = _agent(description)
    if said is None:
        said = _agent(protocol)
    if said is None:
        said = "post contrast" in kinds or re.fullmatch(_NO_AGENT, agent.strip().lower()) is None
    return said


def _fat_saturated(words: str, kinds: list[str], options: str) -> bool:
    words = _without(rf"(?:no|non|wo|w o|without|ohne|sans) ?(?:{_FAT})\w*(?: ?s(?:at|up)\w*)?", words)
    water = (_word(_DIXON, words) and _word(_WATER, words)) or _word(r"water(?! ?(?:ex|sat|sup))", words)
    options_set = options.upper().split("\\")
    return _word(_FAT_SATURATED, words) or water or bool({"w", "water"} & set(kinds)) or "FS" in options_set


#: Images that unite the echoes of a series, such as the root mean square of an MEMPRAGE.
_COMBINED = r"rms|mean|sos|combined|averaged?"


def is_combined(text: Callable[[str], str]) -> bool:
    """Whether an image unites several echoes and has their contrast."""
    kinds = text("ImageType").lower().split("\\")
    return any(re.fullmatch(_COMBINED, kind) for kind in kinds) or _word(
        _COMBINED, plain_words(text("SeriesDescription"))
    )
