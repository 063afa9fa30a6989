"""The meaning of names in a data set: which folder or column names a part, and which class names may be one class.

A name is compared by its words: in any case, with accents or without, in any Unicode form, split at blanks, signs,
digits and capitals in the middle («Train-Set», «01_train», «TestImages»).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Literal

from hpo.data.dataset import PartName
from hpo.data.records import PART_OF
from hpo.errors import DataError

Meaning = PartName | Literal["unclear"]
"""A part, or a word that stands for validation in some data sets and for test in others."""

_PART_WORDS: dict[Meaning, str] = {
    "train": """
        train training trainings trn tr trng learn learning fit entrainement apprentissage entrenamiento addestramento
        allenamento treino treinamento trenowanie treningowy uczenie egitim egitme traening traning trening antrenare
        обучение обучающая тренировка тренировочная навчання 训练 訓練 学习 学習 훈련 학습 प्रशिक्षण تدريب""",
    "val": """
        val valid validate validating validation vld dev devel development validierung validierungs validacion
        validazione validacao validatie walidacja walidacyjny dogrulama validering validare валидация проверка
        验证 検証 驗證 검증 تحقق""",
    "test": """
        test testing tests tst te ts essai prueba pruebas prova teste testowy testowanie pruefung prufung
        тест тестирование тестовая 测试 測試 テスト 테스트 시험 परीक्षण اختبار""",
    "unclear": """
        eval evaluation evaluate evaluating holdout heldout trainval traintest valtest evaluierung evaluacion
        evaluacao valutazione evaluatie оценка 评估 評価 평가""",
}

_FILLERS = """
    set sets data dataset datasets image images img imgs picture pictures pics photo photos folder dir directory split
    splits part parts file files sample samples subset daten datensatz bilder bild donnees datos 集 数据 データ 用"""
"""Words that may stand beside the word for a part: «train_images», «valid set»."""

_JOINED_FILLERS = "dataset datensatz images image imgs bilder daten data set split 数据集 資料集 データ 集 用"
"""Such words when they are joined to the word for a part: «trainset»."""

_SPLIT_WORDS = "fold folds kfold set subset dataset partition phase usage stage split splits cv purpose tvt"

_GROUP_WORDS = """
    patient subject group participant person donor individual animal specimen slide case study series session visit
    family site center centre hospital scanner camera video clip sequence scene plate well batch cluster owner user
    author location"""

_MISSING = frozenset(["nan", "none", "null", "n/a", "na", "<na>", "#n/a", "nat", "undefined", "?", "-"])


def part_of(name: str) -> Meaning | None:
    """Return the part that a name as a whole stands for: «Training», «valid_set», «01-test»; None for other names."""
    words = [word for word in _words(name) if word not in _FILLERS.split()]
    found = {_meaning(word) for word in [*words, "".join(words)]} - {None}
    alone = len(words) == 1 or _meaning("".join(words)) is not None
    return found.pop() if alone and len(found) == 1 else ("unclear" if alone and found else None)


def part_in(name: str) -> Meaning | None:
    """Return the part that a name mentions, also beside other words: «seg_train», «flowers-test»."""
    own = part_of(name)
    found = {_meaning(word) for word in _words(name)} - {None}
    return own or (found.pop() if len(found) == 1 else "unclear" if found else None)


def part_notes(parts: Mapping[str, PartName]) -> list[str]:
    """Return one line on names of parts (folders, arrays, or values of a column) that were read by their words.

    Without a name outside `PART_OF` and without two names of one part, no line is needed.
    """
    usual = all(name.removesuffix("/").removesuffix("_images").lower() in PART_OF for name in parts)
    if usual and len(set(parts.values())) == len({name.lower() for name in parts}):
        return []
    return [f"parts: {', '.join(f'{name} is {part}' for name, part in sorted(parts.items()))}"]


def looks_like_split(column: str, values: Iterable[object] = ()) -> bool:
    """Return whether a column or array is likely to name the part of each image, by its name or by its values."""
    words = set(_words(column))
    if words & set(_SPLIT_WORDS.split()) or part_in(column):
        return True
    distinct = {str(value).strip() for value in values} - {""}
    return 0 < len(distinct) <= 8 and all(part_of(value) for value in distinct)


def looks_like_group(column: str) -> bool:
    """Return whether a column or array is likely to name groups of images, such as those of one patient."""
    groups = _GROUP_WORDS.split()
    return any(word in groups or word.removesuffix("s") in groups for word in _words(column))


def names_images(key: str) -> bool:
    """Return whether a key of an `.npz` names an array of images: «extra_images», «images_test», but not «image_id»."""
    folded = key.lower()
    return folded.endswith(("images", "image", "imgs")) or ("image" in folded and part_in(key) is not None)


def unused_notes(kind: str, values: Mapping[str, Collection[object]], *, split_known: bool) -> list[str]:
    """Return lines on columns or arrays (`kind`) that are not read, but look like a split or like groups of images."""
    splits = [] if split_known else [name for name in values if looks_like_split(name, values[name])]
    groups = [name for name in values if name not in splits and looks_like_group(name)]
    notes = [
        f"{kind} {name} looks like a split, but is not read: "
        "a split is read from a column split (train, val, test), from folders or arrays of these names"
        for name in splits
    ]
    way_out = " or --group-by names it" if kind == "column" else ""
    notes += [
        f"{kind} {name} looks like a group, but is not read: images of one group may be on both sides of the split, "
        f"unless parts are given that keep them together{way_out}"
        for name in groups
    ]
    return notes


def without_note(notes: Sequence[str], column: str) -> tuple[str, ...]:
    """Return the notes without those of `unused_notes` on a column that is read after all."""
    return tuple(note for note in notes if not note.startswith(f"column {column} looks like "))


def class_name(text: str, where: str) -> str:
    """Return a class name in Unicode form NFC, without blanks around it. Raise DataError if not UTF-8, or empty."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"class folder {os.fsencode(text)!r} in {where} is not UTF-8: rename it") from None
    name = plain(text)
    if not name:
        raise DataError(f"class {text!r} in {where} has no name: rename it")
    return name


def plain(text: str) -> str:
    """Return the text in Unicode form NFC, without blanks around it."""
    return unicodedata.normalize("NFC", text).strip()


def names_as_written(classes: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the classes, sorted, as a data set writes them; `names` maps each written name to its class.

    The result is empty where nothing differs, and where the written names make other classes (two spellings of one
    class) or another order of classes.
    """
    # Earlier versions of hpo took class names as written; `earlier_fingerprint` is made of these.
    written = tuple(sorted(names))
    return written if written != tuple(classes) and [names[text] for text in written] == list(classes) else ()


def readable(path: str) -> str:
    """Return a path with each byte that is not UTF-8 written as `\\xe9`, so that it can be stored and printed."""
    return path.encode(errors="surrogateescape").decode(errors="backslashreplace")


def class_notes(classes: Sequence[str], raw: Iterable[str] = ()) -> list[str]:
    """Return lines on class names that may mean one class, or none; `raw` holds the names as they are written."""
    notes = [
        f"{_quoted(names)} are read as one class {name!r}: they differ in Unicode form or in blanks around them only"
        for name, names in _alike(set(raw), plain).items()
    ]
    notes += [
        f"classes {_quoted(names)} differ in case, blanks or signs only: if they are one class, give them one name"
        for names in _alike(classes, _folded).values()
    ]
    notes += [
        f"classes {_quoted(names)} are one number: if they are one class, give them one name"
        for key, names in _alike(classes, _number).items()
        if key
    ]
    missing = [name for name in classes if name.casefold() in _MISSING]
    if missing:
        notes.append(f"class {_quoted(missing)} looks like a missing label: leave such images out if it is one")
    return notes


def natural_key(name: str) -> list[tuple[int, int, str]]:
    """Return a sort key that puts «2» before «10»."""
    # For display only: labels number the classes in the plain order of texts.
    parts = re.split(r"(\d+)", name)
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts if part]


def shortened(names: Sequence[str], most: int = 3, *, total: int | None = None) -> str:
    """Return `a, b, c and 2 more`; `total` is the number of all where `names` holds only the first ones."""
    shown = names[:most]
    more = (len(names) if total is None else total) - len(shown)
    return f"{', '.join(shown)} and {more:,} more" if more else ", ".join(shown)


def _words(name: str) -> list[str]:
    """Return the words of a name in lower case and without accents; joined fillers are removed («trainset»)."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", unicodedata.normalize("NFKC", name))
    return [_without_filler(word) for word in re.findall(r"[^\W\d_]+", _unaccented(spaced.casefold()))]


def _unaccented(text: str) -> str:
    """Remove accents from Latin letters; other scripts keep their marks, which are letters there."""
    decomposed = unicodedata.normalize("NFKD", text).replace("ı", "i")
    return unicodedata.normalize("NFC", re.sub(r"[\u0300-\u036f]", "", decomposed))


def _without_filler(word: str) -> str:
    for filler in _JOINED_FILLERS.split():
        for rest in (word.removesuffix(filler), word.removeprefix(filler)):
            if rest != word and _meaning(rest):
                return rest
    return word


def _meaning(word: str) -> Meaning | None:
    return _MEANINGS.get(word)


_MEANINGS: dict[str, Meaning] = {
    _unaccented(word): meaning for meaning, words in _PART_WORDS.items() for word in words.split()
}


def _folded(name: str) -> str:
    return re.sub(r"[\s._\-]+", " ", unicodedata.normalize("NFKC", name).casefold()).strip()


def _number(name: str) -> str:
    """Return the number that a name stands for, in one form and without rounding; "" for other names."""
    try:
        sign, digits, exponent = Decimal(name).as_tuple()
    except InvalidOperation:
        return ""
    if not isinstance(exponent, int):  # infinity, or no number
        return name.casefold()
    written = "".join(map(str, digits))
    kept = written.rstrip("0")
    return f"{'-' * sign}{kept}e{exponent + len(written) - len(kept)}" if kept else "0"


def _alike(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Return the names by key, for keys that several names share."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        groups[key(name)].append(name)
    return {found: group for found, group in groups.items() if len(group) > 1}


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)
