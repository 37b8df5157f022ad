"""What is written like a name and is none, and what is misspelt and is one: on both retrievers."""

import pytest

from groundwire.kg import CompiledRetriever, Retriever, compile_graph, open_graph

E = "http://example.org/"
TOOLS = """
@prefix : <http://example.org/> .
@prefix rdfs: <http://www.w3.org/2000/01/rdf-schema#> .
@prefix skos: <http://www.w3.org/2004/02/skos/core#> .

:chopper rdfs:label "China Chopper" ; :platform "Windows" ; skos:definition "China Chopper is a web shell." .
:lazarus rdfs:label "Lazarus Group" ; :uses :chopper ; skos:definition "A group near China, said to be in China." .
:panda rdfs:label "Mustang Panda" , "TA416" ; :uses :chopper ; skos:definition "The Lazarus Group and China meet." .
:turla rdfs:label "Turla" ; :uses :chopper ; skos:definition "People in China have seen the Lazarus Group." .
:responder rdfs:label "Responder" ; :platform "Linux" .
:forfiles rdfs:label "Forfiles" ; :platform "Windows" .
:remcos rdfs:label "Remcos" ; :platform "Windows" .
:hellcat rdfs:label "ReconHellcat" ; :platform "Windows" .
:inc rdfs:label "INC Ransom" ; :uses :remcos .
"""


@pytest.fixture(params=["compiled", "rdflib"], scope="module")
def tools(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Retriever:
    folder = tmp_path_factory.mktemp(f"tools-{request.param}")
    (folder / "tools.ttl").write_text(TOOLS, encoding="utf-8")
    if request.param == "rdflib":
        return open_graph(folder / "tools.ttl")
    return CompiledRetriever(compile_graph(folder / "tools.ttl", folder / "out"))


def names(retriever: Retriever, text: str) -> list[str]:
    return [mention.entity.removeprefix(E) for mention in retriever.link(text)]


def test_a_part_that_descriptions_use_as_a_name_of_its_own_is_not_the_whole(tools: Retriever) -> None:
    assert names(tools, "They operate from China and steal mail.") == []
    assert names(tools, "They were seen with China Chopper and steal mail.") == ["chopper"]
    assert names(tools, "They say that Lazarus did it.") == ["lazarus"]


def test_lower_case_in_an_address_says_nothing(tools: Retriever) -> None:
    assert names(tools, "Read https://example.org/blog/remcos-is-back/index.html for more.") == []
    assert names(tools, "It calls remcos[.]example[.]org for orders.") == []
    assert names(tools, "See https://example.org/images/Remcos/Chain.png for more.") == ["remcos"]
    assert names(tools, "It drops Remcos.") == ["remcos"]


def test_common_words_near_a_name_in_lower_case_are_none(tools: Retriever) -> None:
    assert names(tools, "The incident responders looked for files on the disk, written in C.") == []
    assert names(tools, "It runs Responder and then For Files.") == ["responder", "forfiles"]


def test_another_number_is_another_code(tools: Retriever) -> None:
    assert names(tools, "TA416 attacked them.") == ["panda"]
    assert names(tools, "TA415 attacked them.") == []
