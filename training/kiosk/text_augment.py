"""What people do to a typed request, and requests that no desk can serve.

Owns: typing errors, polite padding, fragments, mixtures, and the out-of-scope texts made from templates written for
this project. request.py and fusion.py call it. It knows no labels: the teacher answers for every text made here.
"""

import numpy as np

KEYS = {
    "q": "wa", "w": "qes", "e": "wrd", "r": "etf", "t": "ryg", "y": "tuh", "u": "yij", "i": "uok", "o": "ipl", "p": "ol",
    "a": "qsz", "s": "awdx", "d": "sefc", "f": "drgv", "g": "fthb", "h": "gyjn", "j": "hukm", "k": "jil", "l": "kop",
    "z": "asx", "x": "zsdc", "c": "xdfv", "v": "cfgb", "b": "vghn", "n": "bhjm", "m": "njk",
}  # fmt: skip
OPENINGS = (
    "hi", "hello", "hey", "please", "excuse me", "could you", "can you", "can you please", "i want to know", "i need",
    "tell me", "so", "ok", "um", "uh", "hey there", "i would like to know", "quick question", "sorry", "good morning",
)  # fmt: skip
CLOSINGS = ("please", "thanks", "thank you", "pls", "?", "??", "!", ".", "...", "today", "right now", "for me", "asap")


def typo(word: str, rng: np.random.Generator) -> str:
    """One slip of the finger: drop, double, swap, neighbour key."""
    if len(word) < 3:
        return word
    i = int(rng.integers(len(word)))
    kind = rng.integers(4)
    if kind == 0:
        return word[:i] + word[i + 1 :]
    if kind == 1:
        return word[: i + 1] + word[i] + word[i + 1 :]
    if kind == 2:
        j = min(i, len(word) - 2)
        return word[:j] + word[j + 1] + word[j] + word[j + 2 :]
    near = KEYS.get(word[i].lower(), word[i])
    return word[:i] + near[int(rng.integers(len(near)))] + word[i + 1 :]


def slip(text: str, rng: np.random.Generator, rate: float) -> str:
    """Typing errors in about `rate` of the words, apostrophes lost now and then."""
    if rng.random() < 0.3:
        text = text.replace("'", "")
    return " ".join(typo(w, rng) if rng.random() < rate else w for w in text.split())


def reword(text: str, words: list[str], rng: np.random.Generator) -> str:
    """Drops, swaps and replaces words: keeps some of the meaning; the teacher says how much."""
    out = [w for w in text.split() if rng.random() > 0.08]
    out = [words[int(rng.integers(len(words)))] if rng.random() < 0.15 else w for w in out]
    if len(out) > 2 and rng.random() < 0.3:
        i = int(rng.integers(len(out) - 1))
        out[i], out[i + 1] = out[i + 1], out[i]
    return " ".join(out) or text


def fragment(text: str, rng: np.random.Generator) -> str:
    """A contiguous half or more."""
    words = text.split()
    if len(words) < 4:
        return text
    keep = int(rng.integers(max(2, len(words) // 2), len(words)))
    start = int(rng.integers(len(words) - keep + 1))
    return " ".join(words[start : start + keep])


def padded(text: str, rng: np.random.Generator) -> str:
    """Polite words around."""
    if rng.random() < 0.6:
        text = f"{OPENINGS[int(rng.integers(len(OPENINGS)))]} {text}"
    if rng.random() < 0.5:
        text = f"{text} {CLOSINGS[int(rng.integers(len(CLOSINGS)))]}"
    return text


def mixture(a: str, b: str, rng: np.random.Generator) -> str:
    """Beginning of one request, end of another."""
    wa, wb = a.split(), b.split()
    return " ".join(wa[: max(1, int(len(wa) * rng.uniform(0.3, 0.8)))] + wb[int(len(wb) * rng.uniform(0.2, 0.7)) :])


def variant(text: str, pool: list[str], words: list[str], rng: np.random.Generator) -> str:
    """One augmented text for distillation."""
    kind = rng.random()
    if kind < 0.40:
        text = reword(text, words, rng)
    elif kind < 0.52:
        text = fragment(text, rng)
    elif kind < 0.70:
        text = mixture(text, pool[int(rng.integers(len(pool)))], rng)
    if rng.random() < 0.25:
        text = padded(text, rng)
    return slip(text, rng, 0.15) if rng.random() < 0.4 else text


def gibberish(words: list[str], rng: np.random.Generator) -> str:
    """Nothing anybody meant: key mashing, numbers, words without order."""
    kind = rng.integers(4)
    if kind == 0:
        letters = "asdfghjklqwertyuiopzxcvbnm"
        return " ".join(
            "".join(letters[int(i)] for i in rng.integers(0, 26, int(rng.integers(2, 9))))
            for _ in range(int(rng.integers(1, 5)))
        )
    if kind == 1:
        return " ".join(str(int(rng.integers(0, 10 ** int(rng.integers(2, 9))))) for _ in range(int(rng.integers(1, 4))))
    if kind == 2:
        return "".join(".,;:!?#@*-+/"[int(i)] for i in rng.integers(0, 12, int(rng.integers(1, 8))))
    return " ".join(words[int(i)] for i in rng.integers(0, len(words), int(rng.integers(1, 12))))


# Questions beyond the ten desks. Left: sentence with a slot; right: what fills it.
TOPICS = {
    "person": "the president|the prime minister of canada|shakespeare|einstein|the pope|napoleon|a famous painter|"
    "the queen|mozart|the mayor|cleopatra|the actor in that film|my favourite singer|the first astronaut|beethoven",
    "place": "egypt|the moon|the largest desert|ancient rome|mount everest|the pacific ocean|antarctica|the amazon|"
    "the great wall|brazil|the city hall|the museum|the university|the zoo|the national park|the library|the stadium",
    "thing": "glass|steel|paper|soap|a volcano|a black hole|a rainbow|a diamond|concrete|electricity|a microchip|"
    "a violin|plastic|an engine|a battery|gravity|photosynthesis|a magnet|a satellite|cement|a bicycle|a telescope",
    "animal": "a whale|an elephant|a spider|a cat|a dinosaur|a penguin|a bee|a shark|an octopus|a horse|a wolf|a bat",
    "team": "the lakers|the yankees|the giants|the local football team|the olympics|the world cup|the super bowl|the tennis final",
    "firm": "amazon|google|microsoft|the airline|the phone company|tesla|the biggest bank|the grocery store|the post office|netflix",
    "skill": "knit a scarf|paint a wall|write a novel|code in python|grow tomatoes|train a puppy|play chess|swim faster|"
    "fix a leaking tap|lose weight|build a shed|start a business|sew a button|clean a carpet|sharpen a knife|meditate",
    "subject": "algebra|history|chemistry|biology|geometry|philosophy|geology|astronomy|grammar|economics|physics",
    "health": "a headache|a cold|back pain|a sunburn|insomnia|a broken bone|hay fever|a sore throat|stress|acne",
}
QUESTIONS = (
    "who was {person}", "when was {person} born", "how tall is {person}", "who is {person} married to",
    "what did {person} do", "where does {person} live", "is {person} still alive", "show me pictures of {person}",
    "how many people live in {place}", "how big is {place}", "when was {place} built", "who discovered {place}",
    "what time does {place} open", "is {place} closed on sundays", "how deep is {place}", "what is the history of {place}",
    "how is {thing} made", "who invented {thing}", "how does {thing} work", "why is {thing} important",
    "what is {thing} made of", "when was {thing} invented", "where can i buy {thing}", "how much does {thing} weigh",
    "how long does {animal} live", "what does {animal} eat", "how fast can {animal} run", "how much does {animal} weigh",
    "where do i find {animal}", "can {animal} see in the dark", "how do i look after {animal}",
    "who won {team}", "what was the score of {team}", "when do {team} play next", "who is the best player of {team}",
    "get me tickets for {team}", "how do i watch {team}", "what are the standings for {team}",
    "what is the share price of {firm}", "who founded {firm}", "is {firm} hiring", "should i invest in {firm}",
    "what are the opening hours of {firm}", "what is the phone number of {firm}", "how many employees does {firm} have",
    "how do i complain to {firm}", "what are the latest headlines about {firm}", "how do i {skill}",
    "teach me to {skill}", "what is the best way to {skill}", "find a video about how to {skill}", "what do i need to {skill}",
    "how hard is it to {skill}", "help me with my {subject} homework", "find me a tutor for {subject}",
    "what is the best book on {subject}", "is {subject} hard to learn", "explain {subject} to me",
    "what is the cure for {health}", "how do i treat {health}", "should i see a doctor for {health}",
    "is {health} dangerous", "what causes {health}", "what are the symptoms of {health}",
    "read me the news", "any headlines about {place}", "what movies are showing near {place}", "what is on tv tonight",
    "record the show about {animal}", "what are the lyrics of that song by {person}", "post this picture of {animal}",
    "what is the square root of a negative number", "how many sides does a hexagon have", "what does the law say about {thing}",
    "download an app about {subject}", "what size shoes should i wear", "who is at the door", "lock the front door",
    "print this document about {subject}", "what is my neighbour called", "call an ambulance for {person}",
    "does my bank have a branch near {place}", "what color should i paint my car", "which credit card does {person} use",
    "how do i become a {subject} teacher", "where do i park at {place}", "how many kilometers has my car driven",
    "what kind of wine goes with {animal}", "which hotel did {person} stay in", "who pays tax in {place}",
    "how is {firm} doing this year", "what train goes to {place}", "is there a bus to {place}", "open the email from {firm}",
)  # fmt: skip


def off_topic(rng: np.random.Generator) -> str:
    """A sensible question that none of the desks serves."""
    text = QUESTIONS[int(rng.integers(len(QUESTIONS)))]
    for slot, fillers in TOPICS.items():
        if f"{{{slot}}}" in text:
            choice = fillers.split("|")
            text = text.replace(f"{{{slot}}}", choice[int(rng.integers(len(choice)))])
    return text
