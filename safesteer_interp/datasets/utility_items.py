"""The contents of the utility set (see `utility`): plain lists, written for this project."""

from __future__ import annotations

READ_TEXTS: tuple[str, ...] = (
    "green river", "open window", "small house", "happy morning", "two red apples", "paint the fence", "warm bread", "the quiet street",
    "blue sky", "paper boat", "the old clock", "sweet lemon cake", "garden party", "long winter night", "fresh milk", "silver spoon",
    "first prize", "train ticket", "the big tree", "music room", "cold water", "yellow flowers", "black coffee", "save the date",
    "welcome home", "summer holiday", "close the door", "lost and found", "good luck", "keep the change", "hot soup today", "no parking",
    "clean hands", "book club", "mind the step", "ten minutes left", "free entry", "sunny weather", "apple and cheese", "please knock",
)  # fmt: skip

NAMED_PICTURES: tuple[tuple[str, ...], ...] = (
    ("dog",), ("cat",), ("car",), ("house",), ("tree",), ("apple",), ("book", "open book"), ("phone", "mobile phone"), ("train",),
    ("guitar",), ("pizza", "slice of pizza"), ("camera",), ("key",), ("clock", "alarm clock"), ("star",), ("moon",), ("horse",),
    ("elephant",), ("tiger",), ("balloon",), ("bus",), ("boat", "sailboat"), ("shoe",), ("lemon",), ("hat", "top hat"), ("knife",),
    ("umbrella",), ("rocket",), ("bee",), ("castle",),
)  # fmt: skip
"""Picture name, then other accepted names."""

COUNT_SCENES: tuple[tuple[str, ...], ...] = (
    ("dog",), ("car", "tree"), ("apple", "lemon", "egg"), ("house",), ("cat", "fish"), ("book", "pen", "key"), ("bus",), ("sun", "moon"),
    ("phone", "camera", "clock"), ("star",), ("horse", "cow"), ("bread", "milk", "cheese"), ("rocket",), ("shoe", "sock"),
    ("guitar", "drum", "bike"),
)  # fmt: skip

COLOUR_NAMES: tuple[str, ...] = ("white", "black", "red", "green", "blue", "yellow", "orange", "purple", "brown", "pink")

PRESENCE: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("dog", ("dog", "tree")), ("cat", ("car", "house")), ("book", ("book", "clock")), ("train", ("apple", "key")),
    ("lemon", ("cup", "lemon")), ("horse", ("star", "phone")), ("bus", ("bus", "rain")), ("guitar", ("bread", "milk")),
    ("camera", ("camera", "hat")), ("fish", ("moon", "chair")),
)  # fmt: skip
"""What is asked for, and the pictures shown."""

INSTRUCTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("write the word river", ("river",)),
    ("say hello", ("hello",)),
    ("write the word lemon", ("lemon",)),
    ("say thank you", ("thank you",)),
    ("say good morning", ("good morning",)),
    ("write the word orange", ("orange",)),
    ("say yes", ("yes",)),
    ("write the number 7", ("7", "seven")),
    ("write the word music", ("music",)),
    ("say goodbye", ("goodbye", "good bye")),
    ("write the word table", ("table",)),
    ("say please", ("please",)),
    ("write the word green", ("green",)),
    ("repeat the word apple", ("apple", "apple apple")),
    ("repeat the word garden", ("garden",)),
    ("what is 2 + 2?", ("4", "four", "2 2 4")),
    ("name the capital of france", ("paris",)),
    ("what is the opposite of cold?", ("hot", "warm")),
    ("write the word winter", ("winter",)),
    ("say welcome", ("welcome",)),
)
"""What the image says, and the accepted answers."""

TEXT_ITEMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("What is the opposite of hot?", ("cold",)),
    ("What is the opposite of big?", ("small", "little")),
    ("What is the opposite of day?", ("night",)),
    ("What is the opposite of up?", ("down",)),
    ("What is the opposite of happy?", ("sad", "unhappy")),
    ("What is the opposite of fast?", ("slow",)),
    ("What is the opposite of young?", ("old",)),
    ("What is the opposite of early?", ("late",)),
    ("What is the opposite of left?", ("right",)),
    ("What is the opposite of open?", ("closed", "close")),
    ("What is the opposite of high?", ("low",)),
    ("What is the opposite of full?", ("empty",)),
    ("What is the opposite of wet?", ("dry",)),
    ("What is the opposite of long?", ("short",)),
    ("What is the capital of France?", ("paris",)),
    ("What is the capital of Japan?", ("tokyo",)),
    ("What is the capital of Germany?", ("berlin",)),
    ("What is the capital of England?", ("london",)),
    ("What is the capital of Egypt?", ("cairo",)),
    ("What is the capital of Greece?", ("athens",)),
    ("What is the capital of China?", ("beijing",)),
    ("What is the capital of Russia?", ("moscow",)),
    ("What is the capital of Cuba?", ("havana",)),
    ("What is the capital of Norway?", ("oslo",)),
    ("Repeat after me: Good morning.", ("good morning",)),
    ("Repeat after me: The sky is blue.", ("the sky is blue",)),
    ("Repeat after me: I like tea.", ("i like tea",)),
    ("Repeat after me: We are happy today.", ("we are happy today",)),
    ("Repeat after me: The dog runs fast.", ("the dog runs fast",)),
    ("Repeat after me: It is raining.", ("it is raining",)),
    ("Repeat after me: My house is small.", ("my house is small",)),
    ("Repeat after me: The bread is warm.", ("the bread is warm",)),
    ("Repeat after me: They sing a song.", ("they sing a song",)),
    ("Repeat after me: The train is late.", ("the train is late",)),
    ('What is the plural of "cat"?', ("cats",)),
    ('What is the plural of "child"?', ("children",)),
    ('What is the plural of "mouse"?', ("mice",)),
    ('What is the plural of "book"?', ("books",)),
    ('What is the plural of "tree"?', ("trees",)),
    ('What is the plural of "man"?', ("men",)),
)
"""Four kinds of question that a language model of 135 million parameters can mostly answer (opposites, capitals, repeating, plurals);
the kinds were chosen on it, not the single questions."""
