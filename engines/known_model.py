"""What a runtime knows of its model, whether that runs here, elsewhere or not yet: its name and how it reads."""

from cos.engines.chat import ChatPrompt
from cos.engines.settings import EngineSettings
from cos.engines.vocabulary import HfVocabulary
from cos.search.prompt import TurnMarks


class KnownModel:
    """A model whose prompts are rendered in this process, by its own tokenizer and chat template."""

    def __init__(self, settings: EngineSettings, vocabulary: HfVocabulary, prompt: ChatPrompt) -> None:
        self.settings = settings
        self.vocabulary = vocabulary
        self._prompt = prompt

    @property
    def model(self) -> str:
        """The folder or the hub name of its checkpoint."""
        return self.settings.model

    def turn_marks(self) -> TurnMarks:
        """See `cos.prm.ports.Reader`."""
        return self._prompt.turn_marks()

    def reply_marks(self) -> TurnMarks:
        """See `cos.prm.ports.Reader`."""
        return self._prompt.reply_marks()
