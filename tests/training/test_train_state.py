"""Which validation is the best."""

from captioning.training.train_state import TrainState


def test_the_higher_score_is_better_whatever_the_loss() -> None:
    state = TrainState(best_score=0.5, best_loss=2.0)
    assert state.is_improved_by(0.6, 3.0)
    assert not state.is_improved_by(0.4, 1.0)


def test_of_equal_scores_the_lower_loss_is_better() -> None:
    state = TrainState(best_score=0.0, best_loss=2.0)
    assert state.is_improved_by(0.0, 1.9)
    assert not state.is_improved_by(0.0, 2.0)


def test_anything_is_better_than_nothing() -> None:
    assert TrainState().is_improved_by(0.0, 9.0)
