"""English words that have a place in a sentence rather than a meaning of their own: no synonym stands for them."""

_WORDS = """
    a an the this that these those such same other another each every either neither both all any some no none
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one ones who whom whose which what where when why how
    and or but nor so yet if then else than because as while although though unless until since whether lest
    of in on at by for with about against between among into onto through during before after above below to from up
    down out off over under again further toward towards upon via per within without along across behind beyond near
    am is are was were be been being have has had having do does did doing done will would shall should can could may
    might must ought need dare used let
    not never n't cannot ca wo ai 's 're 've 'll 'd 'm s t d m re ve ll
    isn't aren't wasn't weren't haven't hasn't hadn't don't doesn't didn't won't wouldn't can't couldn't shouldn't
    here there now just only very too also even ever still already almost quite rather
"""

FUNCTION_WORDS = frozenset(_WORDS.split())
