"""What a configuration prints as."""

from hfsynth import EchoLLM, Pipeline, SamplingParams, TextGeneration, TransformersLLM


def test_repr_of_defaults_has_no_fields():
    assert repr(EchoLLM()) == "EchoLLM()"
    assert repr(SamplingParams()) == "SamplingParams()"


def test_repr_has_the_fields_that_were_set():
    technique = TextGeneration(EchoLLM(), sampling=SamplingParams(temperature=0.5))
    assert repr(technique) == "TextGeneration(llm=EchoLLM(), sampling=SamplingParams(temperature=0.5))"
    assert repr(Pipeline((technique,))) == f"Pipeline(steps=({technique!r},))"
    assert repr(TransformersLLM("user/model", dtype="float32")) == (
        "TransformersLLM(model='user/model', dtype='float32')"
    )


def test_repr_of_a_long_text_is_cut():
    technique = TextGeneration(EchoLLM(), template="{{ instruction }}" + "x" * 200)
    assert repr(technique) == f"TextGeneration(llm=EchoLLM(), template='{{{{ instruction }}}}{'x' * 62}…')"
