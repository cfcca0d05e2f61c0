"""The contents of the utility set (see `utility`): plain lists, written for this project."""

from __future__ import annotations

READ_TEXTS: tuple[str, ...] = (
    "green river", "open window", "small house", "happy morning", "two red apples", "wash the car", "warm bread", "the quiet street",
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
    ("write the word river", ("river",)), ("say hello", ("hello",)), ("write the word lemon", ("lemon",)), ("say thank you", ("thank you",)),
    ("say good morning", ("good morning",)), ("write the word orange", ("orange",)), ("say yes", ("yes",)), ("write the number 7", ("7", "seven")),
    ("write the word music", ("music",)), ("say goodbye", ("goodbye", "good bye")), ("write the word table", ("table",)),
    ("say please", ("please",)), ("write the word green", ("green",)), ("repeat the word apple", ("apple", "apple apple")),
    ("repeat the word garden", ("garden",)), ("what is 2 + 2?", ("4", "four", "2 2 4")), ("name the capital of france", ("paris",)),
    ("what is the opposite of cold?", ("hot", "warm")), ("write the word winter", ("winter",)), ("say welcome", ("welcome",)),
)  # fmt: skip
"""What the image says, and the accepted answers."""

TEXT_ITEMS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Repeat the word: lemon", ("lemon",)),
    ("Repeat the word: window", ("window",)),
    ("Repeat the word: river", ("river",)),
    ("Repeat this sentence: The cat is asleep.", ("the cat is asleep",)),
    ("Repeat this sentence: I like green tea.", ("i like green tea",)),
    ("What is 2 + 3?", ("5", "five", "2 3 5")),
    ("What is 1 + 1?", ("2", "two", "1 1 2")),
    ("What is 5 + 5?", ("10", "ten", "5 5 10")),
    ("What is 10 - 4?", ("6", "six", "10 4 6")),
    ("What is the capital of France?", ("paris",)),
    ("What is the capital of Italy?", ("rome",)),
    ("What is the capital of Japan?", ("tokyo",)),
    ("What is the capital of Spain?", ("madrid",)),
    ("What is the capital of Germany?", ("berlin",)),
    ("What is the capital of England?", ("london",)),
    ("What is the capital of Egypt?", ("cairo",)),
    ("What is the opposite of hot?", ("cold", "cool")),
    ("What is the opposite of big?", ("small", "little")),
    ("What is the opposite of day?", ("night",)),
    ("What is the opposite of up?", ("down",)),
    ("What is the opposite of happy?", ("sad", "unhappy")),
    ("What colour is the sky on a clear day?", ("blue",)),
    ("What colour is grass?", ("green",)),
    ("What colour is snow?", ("white",)),
    ("What colour is a ripe banana?", ("yellow",)),
    ("How many days are in a week?", ("7", "seven", "there are 7 days in a week", "7 days in a week")),
    ("How many legs does a dog have?", ("4", "four", "a dog has 4 legs", "4 legs", "a dog has four legs", "four legs")),
    ("How many months are in a year?", ("12", "twelve", "12 months in a year", "12 months")),
    ("What animal says meow?", ("cat", "cats")),
    ("What animal barks?", ("dog", "dogs")),
    ("Which planet do we live on?", ("earth",)),
    ("What do bees make?", ("honey",)),
    ("What language do people speak in France?", ("french",)),
    ("What language do people speak in Spain?", ("spanish",)),
    ("Which day comes after Monday?", ("tuesday",)),
    ("Which month comes after March?", ("april",)),
    ("What is frozen water called?", ("ice",)),
    ("Who wrote Romeo and Juliet?", ("shakespeare", "william shakespeare")),
    ("Name the largest ocean on Earth.", ("pacific", "pacific ocean")),
    ("What is the name of our galaxy?", ("milky way", "milky way galaxy")),
)
