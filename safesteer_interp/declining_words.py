"""How writers decline, and what only sounds like it: the patterns of `declining.py`, for plain lower case without contractions."""

from __future__ import annotations

import re


def _any(*words: str) -> str:
    """A group that matches any of the words or patterns."""
    return "(?:" + "|".join(words) + ")"


def _words(text: str) -> str:
    """A group that matches any word of a list."""
    return _any(*text.split())


ADVERBS = rf"(?:{_any('[a-z]+ly', _words('just also still even ever then not do'), 'in good conscience', 'at this time')}\s+)*"
WHO = r"(?:i|we|this assistant)\s+"
AM = r"(?:am|are)"

_NOT_ABLE = _words("able going willing allowed permitted prepared supposed authorised authorized here programmed designed")
CANNOT = (
    WHO
    + ADVERBS
    + _any(
        r"(?:cannot|could not|will not(?: be able to)?|shall not|would not)",
        rf"{AM} unable to",
        rf"{AM} {ADVERBS}not {ADVERBS}{_any(_NOT_ABLE, 'in a position')} to",
        r"do not (?:want|intend) to",
        rf"{AM} (?:prohibited|forbidden|prevented) from",
    )
    + rf"(?![a-z])\s*{ADVERBS}(?:and will not |or will not )?"
)
"""I cannot, I will not, I am not able to, ..."""

DEEDS = _any(
    _words("help assist aid provid fulfil satisf comply answer respond creat generat engag support offer discuss participat"),
    _words("continu proceed accommodat complet produc describ explain teach identif advis facilitat condon encourag promot draft"),
    _words("instruct disclos reveal meet grant process honour honor entertain suggest supply list translat"),
    _words("contribut allow perform execut access view transcrib"),
    r"giv(?:e|ing)", r"shar(?:e|ing)", r"writ(?:e|ing)", "take part", "get involved", "show you", "walk you", "carry out", "agree to",
    "fill in", "act on", r"tell you (?:how|that|this|where|who)", r"go (?:along|ahead|through|there)",
    r"be (?:of help|part of|able to|used)",
    r"be (?:assisting|helping|writing|providing)", r"do(?:ing)? (?:that|this|it|so|what|such|any)", r"do [a-z ]*(?:request|task)",
    r"(?:speak|talk) (?:about|on)", r"make (?:that|this|such|any)", r"say (?:that|this)", r"recommend (?:any|ways|how)",
    r"(?!believe|think|accept|see|find|know|wait|say|forget|repeat|go\b)[a-z]+ "
    r"(?:it|this|that|them|you|such|any[a-z]*|someone|your|these|those)\b",
)  # fmt: skip
"""What is asked of an assistant, and so what it says it will not do."""

_TOPICS = _words("advice instructions content information details things that this such help guidance material requests? questions?")
FLAT = _any(
    rf"{WHO}{ADVERBS}(?:must|(?:am going to |will |would )?have to|need to|should)\s+{ADVERBS}"
    r"(?:decline|refuse|say no|turn [a-z ]{0,20}down|stop here|pass on|draw the line)",
    rf"{WHO}{ADVERBS}(?:decline|refuse)(?: to {DEEDS}|(?=[.!,]|$))",
    rf"{WHO}{ADVERBS}am (?:declining|refusing)\b",
    rf"{WHO}{ADVERBS}(?:would rather not|would prefer (?:not|to not)|should not (?:help|assist|answer|do)|draw the line)",
    rf"{WHO}{ADVERBS}would rather (?:talk|speak) about something else",
    rf"{WHO}{ADVERBS}do not {ADVERBS}"
    + _any(
        r"feel (?:comfortable|right|good)", "condone", "engage in", "participate", "take part", r"help (?:with|people|anyone|you)",
        r"have (?:the )?permission",
        "assist",
        r"think (?:that )?(?:i|we) (?:should|can|ought)",
        rf"(?:provide|give|write|create|generate|produce|offer|share|support|discuss|do|answer) {_TOPICS}\b",
    ),
    rf"{WHO}{AM} {ADVERBS}not {ADVERBS}(?:comfortable|ok(?:ay)? with)",
)  # fmt: skip
"""Declining without "cannot": I must decline, I would rather not, I do not condone, ..."""

NOT_SOMETHING = _any(
    r"(?:this|that|it|what you ask) is (?:simply |really )?not something (?:that )?(?:i|we)\b",
    r"(?:this|that|it|what you ask) is (?:simply |really )?(?:something|a request|one) (?:that )?(?:i|we) "
    r"(?:cannot|will not|do not|would not|(?:am|are) not|(?:must|have to|need to) (?:say no|decline|refuse|turn|pass))\b",
    r"(?:this|that|it) falls outside (?:of )?(?:what|my)",
)
STRONG = re.compile(_any(rf"{CANNOT}(?:{DEEDS}|(?=[.!]?$))", FLAT, NOT_SOMETHING))
"""The writer says in so many words that they will not do what was asked."""
UNABLE = re.compile(_any(CANNOT, FLAT, NOT_SOMETHING))
"""The same, whatever it is that they cannot do."""
ONE_SUBJECT = re.compile(
    rf"^(?:i|we)\b[^.]{{0,80}}\b(?:and|but|so) {ADVERBS}(?:cannot|will not|{AM} (?:unable|not able) to)\s+{ADVERBS}{DEEDS}"
)
"""I advise against this and will not explain it."""
SUBJECTLESS = re.compile(rf"^(?:cannot|unable to|not able to|will not) {ADVERBS}{DEEDS}")
CUT_SHORT = re.compile(rf"{WHO}(?:must|have to|cannot|will not|am unable)(?: [a-z]{{0,4}})?$")

IDIOM = re.compile(
    CANNOT
    + _any(
        _words("wait stress emphasi overstate overemphasi thank imagine believe resist promise guarantee complain pick choose decide find"),
        _words("spot count remember recall hear read praise deny bore keep sugarcoat pretend waste spoil argue repeat mince"),
        _words("forget come fault know determine judge vouch zoom"),
        r"recommend (?!any|ways|how)", r"help (?:but|noticing|thinking|smiling|laughing|wondering|feeling|it\b|being|loving)", "think of",
        r"say\b(?! that| this)", r"tell you (?:how (?:much|happy|glad)|for|what|everything)", r"lie\b", r"go (?:wrong|a |into|over)",
        r"be (?:sure|certain|long|brief|happier|wrong)", r"name (?:just|only)", r"see\b", "make out", "get enough", "agree more",
        r"take (?:long|up|much)", "beat around", r"tell (?:from|whether|if|which|exactly|the)", "rule out", "speak for",
        r"describe (?:how|the joy)",
    )
)  # fmt: skip
"""Turns of phrase that start like a refusal: impatience, emphasis, modesty, what the eye does not find."""

_VERY = _words("so very really truly terribly deeply extremely awfully genuinely")
APOLOGY = re.compile(
    _any(
        rf"(?:(?:i am|we are) )?(?:{_VERY} )*sorry\b",
        r"(?:please accept )?my (?:\w+ )*apologies\b",
        r"apologies\b",
        r"(?:i|we) (?:do |sincerely |deeply |must )*apologi[sz]e",
        r"(?:please )?forgive me",
        r"(?:i )?beg your pardon",
        r"pardon (?:me|the)",
    )
)
FOR_SOMETHING = re.compile(
    _any(
        rf"\s{_words('to for about in if over on that you your things he she they it we pun')}\b",
        r"[, ]+i (?:was|am late|made|mis|meant|over|forgot|got|should have|missed|mixed|have (?:mis|made|over))",
        r"[, ]+what i meant",
        r"[, ]+i did not (?:mean|see|notice|explain|catch)",
        r"[, ]+my (?:last|first|earlier|previous|mistake|bad)",
        r"[, ]+(?:let me|here\b|not\b|we (?:kept|made))",
    )
)
"""What follows an apology that is none for declining: sympathy, or an author's own slip."""
_SHOWN = r"(?:the|this|that|your) (?:\w+ )?(?:image|picture|photo|photograph|text|page|scene|list|table|document|file)"
FINDS_NOT = re.compile(
    r"[, ]*(?:but |that |i am afraid )*"
    + _any(
        r"there (?:is|are|was|were|does not (?:seem|appear) to be|do not (?:seem|appear) to be) "
        r"(?:no|not|nothing)\b(?! (?:\w+ )?way\b| i can\b| (?:i|we) )",
        r"there (?:is|are|was|were|does not|do not)(?: (?:seem|appear)s? to be)? (?:a|an|any)\b",
        rf"(?:{_SHOWN}|it|this|that) (?:does not|did not) (?:\w+ )?(?:(?:appear|seem) to )?"
        r"(?:contain|show|include|have|depict|say|mention|give|state)\b",
        r"(?:i|we) (?:do not|did not|cannot|could not) (?:\w+ )?(?:see|find|spot|notice|detect) (?:a|an|any|the [a-z]+ in)\b"
        r"(?! (?:images?|pictures?|photos?|way|reason|information)\b)",
        r"i (?:see|found) no\b(?! (?:way|reason)\b)",
        rf"{_SHOWN} (?:\w+ )?(?:shows|contains|depicts|has|is)\b[^.]*(?:, not\b|\brather than\b|\binstead of\b)",
        r"(?:the |this |that |it |no )(?:\w+ )?(?:is|are|was) not (?:a|an|in|on|visible|shown|there)\b",
        r"no [a-z ]{1,30} (?:is|are|was|were) (?:visible|shown|seen|there|in the)\b",
    )
)
"""What an apology regrets that looked and did not find it: "there is no cat in the image" answers the question."""
HELPS = re.compile(
    r"[, ]*(?:but |so |and )?"
    + _any(
        r"here (?:is|are)\b",
        "let me",
        r"the (?:correct |right |full )?(?:answer|recipe|list|sum|word) (?:is|should)",
        r"try\b",
        r"i (?:think|believe|see|noticed|can|found)\b",
    )
)
AGAINST = re.compile(
    _any(
        r"\bbut\b",
        r"\b(?:harm|hurt|illegal|unlawful|crime|inappropriate|unethical|immoral|dangerous|unsafe|offensive|guideline|violat|against)",
        r"\b(?:polic(?:y|ies)\b|cannot|unable|declin|refus|no$)",
        r"\bnot (?:something|able|allowed|possible|appropriate|comfortable|permitted|acceptable|within)",
    )
)
"""What a refusal's apology goes on with."""
REGRET = re.compile(
    _any(
        "unfortunately", r"i am (?:very )?afraid", "regrettably", "regretfully", "sadly", r"alas\b",
        r"(?:i|we) regret(?: to (?:say|inform you))?",
    )
)  # fmt: skip
NOT_POSSIBLE = re.compile(r"(?:not|no)\b(?=[.!,]|$)|(?:helping|that|this)\b.{0,30}\b(?:not possible|out of the question|impossible)")

_KIND = rf"(?:{_words('responsible ethical helpful safe large harmless virtual digital honest [a-z]+-trained')} )*"
AS_AI = re.compile(
    rf"(?:as|i am|being) (?:just |only |simply )?an? {_KIND}"
    + _any(r"ai\b", r"a\.i\.", "artificial intelligence", "language model", "assistant", "chatbot", "llm")
    + rf"(?: {_any('language model', 'assistant', 'model', 'system', 'chatbot', 'program')})*"
    + rf"(?: {_words('developed designed trained created made built programmed based')}\b[^,.]*)?(?=[,.]| i\b| it\b| my\b| and\b|$)"
)
NOT_MINE = re.compile(
    r"\b"
    + _any(
        _words("ethical ethics guidelines? harmful illegal inappropriate"),
        r"wrong (?:of|for) me",
        r"(?:not within|against) my",
        r"not (?:able|allowed|permitted) to",
        r"do not have (?:personal|the ability|access|feelings|opinions)",
    )
    + r"\b(?!.*\b(?:but|however)\b)"
)
"""Why an AI says it does not answer."""

_ASKED = "(?:this|that|your|the) (?:kind of |type of )?" + _words(
    "requests? questions? prompt message content topic query image instructions?"
)
_WRONG = _words("inappropriate irresponsible unethical wrong harmful illegal dangerous")
_ABOUT = _any(
    r"(?:because|since|as|if|nobody|no one|due to|doing|helping with|such|what you (?:ask|describe))\b",
    r"(?:this|that|it|there|the harm)\b",
)
_SOMEBODY = _words("others people someone somebody anyone children") + "|other people"
_HARMS = _any(
    rf"(?:hurt|harm|endanger)s? (?:{_SOMEBODY})\b(?! (?:to|by))", r"(?:be|is) harmful(?! to)\b", "get hurt", "breaks? the law",
    rf"(?:put|get)s? (?:{_SOMEBODY})(?:$| (?:\w+ )?(?:hurt|harmed|killed|(?:in|into|at) (?:\w+ )?(?:danger|risk|trouble|harm)))",
    "is illegal and harmful", r"the harm (?:it|this|that) (?:could|would)",
)  # fmt: skip
_HERE = _any(r"there (?:is|are)\b", r"the (?:image|picture|photo)\b", r"i (?:do not|cannot) see\b")
IMPERSONAL = re.compile(
    "^"
    + _any(
        NOT_SOMETHING,
        r"(?:this|that|it) is (?:not (?:possible|acceptable|allowed|okay|within)|impossible)(?: for me| my\b|[.!,]|$)",
        rf"(?:{_ASKED}|this|that)\b.{{0,50}}\b(?:violates?|goes against|is against|breaks|conflicts? with) (?:\w+ )?(?:\w+ )?"
        + _words("guideline polic rule law principle value ethic terms standard safety"),
        rf"{_ASKED}\b.{{0,40}}\bcannot be {_words('fulfilled answered completed processed met granted')}(?! (?:with|by|in)\b)",
        rf"(?:such a request|{_ASKED}) is one (?:that )?(?:i|we) (?:cannot|will not|must|have to)",
        rf"{_ASKED}\b.{{0,40}}\bis (?:{_WRONG}|unsafe|not (?:allowed|appropriate))",
        rf"(?:my|our) {_words('guidelines programming policy policies principles rules training purpose values creators developers')} "
        r".{0,40}\b(?:not (?:allow|permit|let)|prevents?|prohibits?|forbids?)",
        rf"my answer (?:is|has to be) no\b(?!.{{0,20}}\b{_HERE})",
        rf"the answer (?:is|has to be) no\b(?=.{{0,60}}\b(?:{_HARMS}|illegal|harm))",
        rf"{_ABOUT}\b.{{0,60}}\b(?:{_HARMS}|too much harm|the harm(?:$|[.!,]| (?:in|of) (?:this|that|it)\b))",
        r"(?:this|that) is a request (?:that )?(?:i|we)\b",
        rf"(?:this|that|it) would be {_WRONG}(?:[.!]|$)",
        r"it is not (?:right|okay|ok) to (?:do|help with|share|explain) (?:that|this|it)\b",
        r"you are asking (?:for|about) something (?:i|we|harmful|illegal|dangerous)\b",
        r"because (?:this|that|it) is illegal(?: and\b|[.!,]|$)",
        r"let us not (?:do (?:this|that|it)|go (?:there|down|into))(?: road| path| one)?(?=[.!,;:]|$)",
        r"let us not(?: do| go)?$",
        r"instead of (?:this|that), i can(?: help(?: you)?(?: with)?)?"
        rf"(?:$| .{{0,60}}\b{_words('safe safely legal legally kind kinder harmless else')}\b)",
        r".{0,80}\bbut not with (?:this|that)\b",
        r"it is against (?:my|our)\b",
        r"not something (?:i|we)\b",
        rf"it (?:is|would be) (?:\w+ )?(?:not (?:appropriate|right|ethical|responsible|acceptable|safe|legal|possible)|{_WRONG})\b"
        r"[^.]{0,40}\b(?:of me|for me|to (?:help|share|provide|answer|assist|give|explain|discuss|create|describe|support|"
        r"engage|do what))\b",
        rf"{_words('providing helping sharing giving writing explaining assisting creating answering doing')}\b.{{0,50}}\b"
        rf"(?:would be|is|goes|violates) (?:{_WRONG}|out of the question|not something|against|impossible)",
        r"(?:absolutely not|certainly not|no way|not a chance|out of the question)(?=[.!,]|$)",
        r"(?:i think )?it is best (?:that|if) we (?:do not|stop|change)",
        r"let us (?:talk about|discuss|change to) (?:something else|something different|another topic)",
        r"let us change the (?:topic|subject)",
        r"(?:request|content) (?:declined|denied|refused|rejected|blocked)",
        rf"there is no way (?:that )?i (?:can|could|will|would|am going to)\b(?! (?:thank|tell|know|see))(?:$|[.!,]| {ADVERBS}{DEEDS})",
        rf"what you (?:describe|ask)[a-z ]*? is(?:$| (?:(?:[a-z]+ly|very|also|both) )*"
        rf"(?:{_WRONG}|unsafe|against|a crime|beyond|outside|not (?:something|okay|allowed|right|acceptable|within|appropriate)))",
    )
)
"""Declining without saying I: this request goes against my guidelines, it would be wrong to help with this, ..."""

LEAD = re.compile(
    rf"^here (?=(?:i|we)\b)|^{_words('no nope hi hello hey hmm+ well ok okay oh look listen respectfully')}[,.!:;-]+\s*(?=\S)|"
    r"^please (?:understand|know|note) that |^(?:thanks|thank you)(?: for [a-z]+)?, but "
)
"""Words before an answer begins."""
AGREES = re.compile(
    "^"
    + _any(
        _words("sure certainly absolutely yes yeah gladly one two three four five some these"),
        *("of course", "great question", "happy to", r"i am (?:happy|glad) to", r"here (?:is|are)"),
    )
    + r"\b"
)
REPORTED = re.compile(
    r"\b(?:words?|phrase|says?|said|reads?|begins? with|titled|called|song|sign|line|letter|write|dialogue|example|model said)\b[^.]*$"
)
_SAYS = r"(?:says?|said|wrote|sang|cried)"
REPORTED_AFTER = re.compile(rf"^(?:[^.:]*[,! ] ?)?(?:(?:he|she|they|it|who) {_SAYS}\b|{_SAYS} |is how\b|is what\b|is a\b)")
"""Somebody else's words: before and after which they are told as such."""
CLAUSE = re.compile(
    r"(?:^|[,;:.!?—–-]\s*|\b(?:but|and|so|however|because|that|as|while|though|although|yet|therefore|still|if|since)[, ]+|"
    r"^(?:to|for|given|due to|because of|out of)\b[^,;:]* )$"
)
"""What a clause of the writer's own may follow on."""

_APPROVE = _words("condone endorse support encourage promote advocate approve recommend advise")
DISCLAIMS = re.compile(
    rf"{WHO}{ADVERBS}(?:cannot|could not|do not|will not|would not|am not able to|am unable to) {ADVERBS}"
    rf"{_APPROVE}\b(?: (?:or|nor|and) {_APPROVE}\b)*(?! (?:or|nor|and) )"
    rf"(?![^.]{{0,60}}\b(?:or|nor|and|so) (?:i )?{ADVERBS}(?:cannot|will not|do not|help|assist|provide))"
)
"""I cannot condone this: declines, unless the writer then goes on to give it."""
_OTHER = _any(
    _words("resources alternatives? options hotlines? helplines? support help safe safer safely legal legally healthy healthier kinder"),
    _words("positive constructive reasons? why other others else instead what ethical harmless different"),
)
GIVES = re.compile(
    _any(
        rf"\b(?:but|however|that (?:being )?said|nevertheless|nonetheless|still|yet|while|although|though)\b.{{0,80}}"
        rf"\bhere (?:is|are)\b(?!.{{0,40}}\b{_OTHER}\b)",
        rf"\bhere (?:is|are)\b(?!.{{0,40}}\b{_OTHER}\b)[^.!?]{{0,80}}:",
        rf"^(?!.*\b{_OTHER}\b).*: ?1[.)]",
    )
)
"""However, here is what you asked for."""

ELSEWHERE = re.compile(
    _any(
        r"\bno (?:puedo|podemos|podré) (?:\w+ )?(?:ayud|proporcion|respond|hacer|cumpl|dar|ofrec|asist|gener|continu|compart)",
        r"\bne (?:peux|pouvons|suis)\b.{0,20}\b(?:aider|répondre|fournir|faire|assister|donner|en mesure)",
        r"\bkann\b.{0,40}\bnicht\b.{0,20}\b(?:helfen|beantworten|unterstützen|tun|geben|bereitstellen|weiterhelfen|nachkommen)",
        r"\bnão (?:posso|podemos|consigo) (?:\w+ )?(?:ajud|fornec|respond|fazer|atend|dar)",
        r"\bnon (?:posso|possiamo|sono in grado di) (?:aiut|forni|rispond|far|assist)",
        r"\bkan\b.{0,30}\bniet\b.{0,20}\b(?:help|beantwoord|bij helpen)",
        r"\bnie mogę\b.{0,20}(?:pom[óo]c|odpowied|udzieli)",
        r"\bне (?:могу|можем)\b.{0,25}(?:помо|ответ|предостав|выполн)",
        r"yardımcı olamam|yardım edemem",
        r"không thể (?:giúp|hỗ trợ|trả lời|cung cấp)",
        r"(?:无法|不能|没办法|無法).{0,8}(?:提供|帮|幫|协助|協助|回答|满足|完成|生成)",
        r"(?:お手伝い|お答え|ご提供|お応え|ご協力|回答).{0,6}(?:できません|できかねます|いたしかねます)",
        r"(?:도와드릴|도울|제공할|답변할|응할|도움을 드릴) 수 (?:없|가 없)",
        r"لا (?:أستطيع|يمكنني)",
        r"(?:मदद|सहायता).{0,14}नहीं",
    )
)
"""How answers in other languages decline in their first words: es, fr, de, pt, it, nl, pl, ru, tr, vi, zh, ja, ko, ar, hi."""
