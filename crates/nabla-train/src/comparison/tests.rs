use super::*;

#[test]
fn every_optimizer_gets_the_same_budget_around_its_own_middle() {
    let comparison = Comparison {
        spacing: 10.0,
        trials: 4,
        ..Comparison::default()
    };
    for contender in &comparison.contenders {
        let grid = comparison.grid(&contender.optimizer);
        let middle = contender.optimizer.learning_rate();
        let expected = [0.1, 1.0, 10.0, 100.0].map(|f| f * middle);
        for (found, expected) in grid.iter().zip(expected) {
            assert!((found / expected - 1.0).abs() < 1e-12);
        }
        assert_eq!(grid.len(), 4);
    }
    assert_eq!(comparison.runs(), 5 * (4 + 3));
}

#[test]
fn spreads_are_those_of_the_sample() {
    let spread = Spread::of(&[1.0, 2.0, 3.0, 6.0]).unwrap();
    assert_eq!((spread.mean, spread.min, spread.max), (3.0, 1.0, 6.0));
    // numpy.std([1, 2, 3, 6], ddof=1)
    assert!((spread.deviation - 2.160_246_899_469_287).abs() < 1e-15);
    assert_eq!(Spread::of(&[4.0]).unwrap().deviation, 0.0);
    assert_eq!(Spread::of(&[]), None);
}
