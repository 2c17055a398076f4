"""Texts and chats that a tokenizer and a chat template are proven on: what people write, and what breaks readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["CHATS", "SENTENCES", "sample_prompts", "sample_texts"]

SENTENCES = (
    "The quick brown fox jumps over the lazy dog.",
    "Der schnelle braune Fuchs springt über den faulen Hund; Grüße aus Köln, ẞ und ß.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë.",
    "El pingüino Wenceslao hizo kilómetros bajo exhaustiva lluvia y frío; ¿añoraba a su querido cachorro?",
    "À noite, vovô Kowalsky vê o ímã cair no pé do pinguim queixoso.",
    "Pchnąć w tę łódź jeża lub ośm skrzyń fig.",
    "Příliš žluťoučký kůň úpěl ďábelské ódy.",
    "Árvíztűrő tükörfúrógép.",
    "Pijamalı hasta yağız şoföre çabucak güvendi. İIıi",
    "Съешь же ещё этих мягких французских булок, да выпей чаю.",
    "Жебракують філософи при ґанку церкви в Гадячі, ще й шатро їхнє п'яне знаємо.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה.",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر ومغلف بجلد أزرق.",
    "پژوهشگران می‌گویند که این کار شدنی است.",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश।",
    "আমি বাংলায় গান গাই।",
    "யாமறிந்த மொழிகளிலே தமிழ்மொழி போல் இனிதாவது எங்கும் காணோம்.",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า",
    "Tôi có thể ăn thủy tinh mà không hại gì.",
    "我能吞下玻璃而不伤身体。",
    "我能吞下玻璃而不傷身體。",
    "いろはにほへと ちりぬるを 我が世誰ぞ 常ならむ カタカナ ﾊﾝｶｸ",
    "나는 유리를 먹을 수 있어요. 그래도 아프지 않아요.",
    "მინას ვჭამ და არა მტკივა.",
    "Կրնամ ապակի ուտել և ինծի անհանգիստ չըներ։",
    "ሰማይ አይታረስ ንጉሥ አይከሰስ።",
    "ខ្ញុំអាចញុំកញ្ចក់បាន ដោយគ្មានបញ្ហា",
    "ᚠᛇᚻ᛫ᛒᛦᚦ᛫ᚠᚱᚩᚠᚢᚱ",
    "𐌼𐌰𐌲 𐌲𐌻𐌴𐍃 𐌹̈𐍄𐌰𐌽",
)
_MARKS = (
    "e\u0301 vs \u00e9, A\u030a vs \u00c5, ﬁ vs fi, ½ ² ™ №",
    "\u1112\u1161\u11ab vs \ud55c",
    "Z̸̢̛a̴l̷g̵o̶ t̴e̷x̸t",
    "👩‍🚀 👨‍👩‍👧‍👦 🏳️‍🌈 🧑🏽‍💻 👍🏿",
    "🇩🇪🇫🇷🇯🇵 ☺ ☺️ ☺︎ 1️⃣ #️⃣",
    "🎉🎉🎉",
    "a👩‍🚀b",
    "𝒜𝓁𝓅𝒽𝒶 𝔸 𝟘𝟙𝟚",
    "‘single’ “double” «guillemets» – en — em … ellipsis",
    "\u202eright to left\u202c \u200bzero\u200bwidth\u200c \u2060joiner \u00adsoft",
    "\ufeffbyte order mark",
    "\ufffd replacement",
    "\ue000 private \U0010ffff last",
)
_SPACES = (
    " ",
    "  ",
    "   ",
    "\t",
    "\n",
    "\n\n",
    "\r\n",
    " \n",
    "\n ",
    "\t\t  \n",
    " leading",
    "trailing ",
    "  two  spaces  ",
    "a\tb\tc",
    "line\nline\n\nline\r\nline\rline",
    "    indented\n        twice\n\tby tab",
    "\u00a0no-break\u00a0space",
    "\u3000ideographic\u3000space",
    "\u2003em\u2009thin\u202fnarrow\u205fmath",
    "\u2028line separator\u2029paragraph",
    "\x0bvertical\x0cform feed",
    "\x85next line",
    "a \u200b b",
    "▁ metaspace ▁▁ itself",
    "Ġ byte-level Ċ letters ĉ",
)
_NUMBERS = (
    "0",
    "7",
    "42",
    "100",
    "2024",
    "12345",
    "1234567890",
    "3.14159265358979",
    "-273.15",
    "1,000,000",
    "1e-10",
    "0x1F600",
    "10:30",
    "2024-02-29T12:30:00Z",
    "192.168.0.1",
    "٠١٢٣٤٥٦٧٨٩",
    "०१२३",
    "１２３",
    "Ⅷ ④ ½",
    "1 + 1 = 2; 2² = 4",
    "$1.99 €2,50 £3 ¥400 ₹5",
    "100%",
)
_CODE = (
    "def f(x: int) -> int:\n    return x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i]; }",
    "const f = async (x) => `${await x}`;",
    "SELECT * FROM t WHERE a = 'it''s' AND b <> NULL;",
    '<html><body class="x">&amp;&lt;</body></html>',
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}',
    "#include <stdio.h>\nint main(void) { return 0; }",
    'fn main() { println!("{}", 1u8 as char); }',
    "\\frac{a}{b} \\sum_{i=0}^{n} x_i",
    "ls -la | grep '^d' > /dev/null 2>&1 && echo $?",
    "https://example.org/a/b?c=d&e=%20#f",
    "user@example.org C:\\Users\\x ~/.bashrc ../..",
    "camelCase snake_case kebab-case SCREAMING_CASE PascalCase",
    'if __name__ == "__main__":\n\tmain()',
    "```python\nprint('hi')\n```",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "# Title\n\n- item\n- [ ] task\n\n**bold** _it_ ~~no~~",
    "diff --git a/x b/x\n@@ -1,2 +1,2 @@\n-old\n+new",
    "x=1;y=2;;z===3!==4",
    "(((((([[[[{{{{}}}}]]]]))))))",
    "U+1F600 \\u00e9 \\x41 %E4%BD%A0",
)
_WORDS = (
    "",
    "a",
    "A",
    "I'm you're it's don't they'll we've he'd I'M",
    "it 's do n't . stop , now ! really ?",
    "ALL CAPS AND lower and MiXeD",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
    "Hello,world!Hello ,world !",
    "wait... what?! no!!! (really) [yes] {ok}",
    "co-operate re-enter e-mail",
    "Mr. Smith's dog, e.g. Rex, i.e. a dog, etc.",
    "«»‹›„“”’‚",
    "🙂text🙂 text 🙂",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "the the the the",
    "\"quoted\" 'single' `tick`",
    "naïve café résumé",
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏ",
    "ſ ẞ İ ı ǅ ﬀ",
)
_CONTROLS = (
    "\x00",
    "a\x00b",
    "\x01\x02\x03\x07\x08\x1b[0m\x7f",
    "\x1f\x1e\x1d\x1c",
    "\x80\x9f",
    "".join(map(chr, range(32, 127))),
    "".join(map(chr, range(160, 256))),
)
_LONG = (
    "a" * 500,
    " " * 100,
    "\n" * 40,
    "ab" * 200,
    "word " * 120,
    "1" * 200,
    "日本" * 80,
    "👩‍🚀" * 30,
    "é" * 100,
    "=" * 150,
    ".,;:" * 50,
    "aA1 " * 60,
)
_LIKE_SPECIAL = (
    "<s> </s> <unk> <pad> <mask>",
    "<|endoftext|><|im_start|>user<|im_end|>",
    "[CLS] [SEP] [MASK] [INST] [/INST]",
    "<bos><eos><start_of_turn>user<end_of_turn>",
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|><|eot_id|>",
    "<| not special |> <|",
    "<0x41><0xE6><0x97><0xA5>",
    "<think>hm</think>",
)


def sample_texts(special: Iterable[str] = ()) -> list[str]:
    """About 200 different texts.

    Args:
        special: tokens beside the vocabulary, which are also tried within texts.
    """
    texts = [*_WORDS, *SENTENCES, *_MARKS, *_SPACES, *_NUMBERS, *_CODE, *_CONTROLS, *_LONG, *_LIKE_SPECIAL]
    # The beginning and the end of a text are where readers differ.
    texts += [f" {text}" for text in SENTENCES[::3]] + [f"{text}\n" for text in _CODE[::3]]
    for token in special:
        texts += [token, f"a{token}b", f" {token} ", f"a {token} b{token}{token}\n"]
    return list(dict.fromkeys(texts))


def sample_prompts(learned: Iterable[str] = ()) -> list[str]:
    """About 100 different prompts: languages, emoji, accents, digits, and long ones that are cut off.

    Args:
        learned: tokens beside the vocabulary, which are also tried within texts.
    """
    prompts = [*_WORDS, *SENTENCES, *_MARKS, *_NUMBERS, *_LONG, "a lighthouse at dusk, " * 30]
    for token in learned:
        prompts += [token, f"a photo of {token}", f"a {token}, {token} and {token}!"]
    return list(dict.fromkeys(prompts))


_USER = {"role": "user", "content": "What is the capital of France? "}
_ANSWER = {"role": "assistant", "content": " Paris.\n"}
_SYSTEM = {"role": "system", "content": "You are a helpful assistant.\nBe brief."}
_MORE = {"role": "user", "content": "And of Österreich? <b>日本</b> 👩‍🚀 {{ x }} {% y %}"}
_CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "call00001",
            "type": "function",
            "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 3}},
        }
    ],
}
_TOLD = {"role": "tool", "name": "get_weather", "tool_call_id": "call00001", "content": '{"degrees": 20.5}'}
_TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'Say what the weather is in a city\'s "center".',
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    },
}
_DOCUMENT = {"title": "Atlas", "text": "Paris is the capital of France."}
_PARTS = {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": "this?"}]}

CHATS: tuple[dict[str, Any], ...] = (
    {"messages": [_USER]},
    {"messages": [_SYSTEM, _USER]},
    {"messages": [_USER, _ANSWER]},
    {"messages": [_USER, _ANSWER, _MORE]},
    {"messages": [_SYSTEM, _USER, _ANSWER, _MORE]},
    {"messages": [_SYSTEM, _USER, _ANSWER, _MORE, _ANSWER]},
    {"messages": [_ANSWER]},
    {"messages": [_USER, _USER]},
    {"messages": [_SYSTEM]},
    {"messages": [_PARTS]},
    {"messages": [_USER], "tools": [_TOOL]},
    {"messages": [_SYSTEM, _USER, _CALL, _TOLD], "tools": [_TOOL]},
    {"messages": [_USER, _CALL, _TOLD, _ANSWER, _MORE], "tools": [_TOOL]},
    {"messages": [_USER], "documents": [_DOCUMENT]},
    {"messages": [_USER, {**_ANSWER, "reasoning_content": "It is well known."}, _MORE]},
    {"messages": [{"role": "user", "content": ""}]},
)
"""Chats as `ChatTemplate.render` takes them; what a template does not take, it refuses."""
