//! Messages between threads, and what happens when one of them ends, panics or is silent.

use std::time::{Duration, Instant};

use nabla_share::communicator::faults::{Faults, Faulty};
use nabla_share::communicator::threads::{self, RankError, ThreadCommunicator};
use nabla_share::communicator::{Communicator, CommunicatorError, Kind, Tag};
use nabla_share::dadao::DadaoError;

const LIMIT: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(200);
const TAG: Tag = Tag::new(1);

/// The results of all ranks, whose closure needs no annotation.
fn run<T: Send>(
    size: usize,
    limit: Duration,
    on_rank: impl Fn(&mut ThreadCommunicator) -> Result<T, CommunicatorError> + Sync,
) -> Vec<Result<T, RankError<CommunicatorError>>> {
    threads::run_each(size, limit, on_rank).unwrap()
}

#[test]
fn sums_are_the_same_bits_whoever_is_first() {
    let term = |rank: usize, i: usize| (0.1 + rank as f32).powi(3) * 1e3_f32.powi(i as i32 - 2);
    // In the order of the ranks, as the leader adds.
    let expected: Vec<f32> = (0..5)
        .map(|i| (1..6).fold(term(0, i), |sum, rank| sum + term(rank, i)))
        .collect();
    for slow in 0..6 {
        let sums = run(6, LIMIT, |ranks| {
            if ranks.rank() == slow {
                std::thread::sleep(Duration::from_millis(20));
            }
            let mut values: Vec<f32> = (0..5).map(|i| term(ranks.rank(), i)).collect();
            ranks.all_reduce_sum_f32(&mut values)?;
            let mut double = [ranks.rank() as f64 + 0.1];
            ranks.all_reduce_sum_f64(&mut double)?;
            assert_eq!(double, [0.1 + 1.1 + 2.1 + 3.1 + 4.1 + 5.1]);
            Ok(values)
        });
        for sum in sums {
            assert_eq!(sum.unwrap(), expected);
        }
    }
}

#[test]
fn gatherings_and_broadcasts_keep_the_order_of_the_ranks() {
    let all = run(4, LIMIT, |ranks| {
        let own = vec![ranks.rank() as u8; ranks.rank()];
        let all = ranks.all_gather(&own)?;
        let mut word = match ranks.rank() {
            2 => b"from two".to_vec(),
            _ => Vec::new(),
        };
        ranks.broadcast(2, &mut word)?;
        assert_eq!(word, b"from two");
        ranks.barrier()?;
        Ok(all)
    });
    for each in all {
        assert_eq!(each.unwrap(), [vec![], vec![1], vec![2; 2], vec![3; 3]]);
    }
}

#[test]
fn one_rank_alone_agrees_with_itself() {
    let all = run(1, LIMIT, |ranks| {
        let mut values = [1.5];
        ranks.all_reduce_sum_f64(&mut values)?;
        ranks.barrier()?;
        assert!(ranks.send(0, TAG, b"").is_err());
        Ok((values, ranks.all_gather(b"me")?))
    });
    assert_eq!(all[0].as_ref().unwrap(), &([1.5], vec![b"me".to_vec()]));
}

#[test]
fn messages_of_other_tags_and_ranks_wait_until_they_are_asked_for() {
    let results = run(3, LIMIT, |ranks| {
        if ranks.rank() > 0 {
            let own = ranks.rank() as u8;
            ranks.send(0, Tag::new(2), &[own, 2])?;
            ranks.send(0, TAG, &[own, 1])?;
            ranks.send(0, TAG, &[own, 3])?;
            // A rank that has ended is told of before a message of another one that is still on its way.
            return ranks.barrier();
        }
        assert_eq!(ranks.receive(2, TAG)?, [2, 1]);
        assert_eq!(ranks.receive(2, Tag::new(2))?, [2, 2]);
        assert_eq!(ranks.receive(2, TAG)?, [2, 3]);
        assert_eq!(ranks.receive(1, Tag::new(2))?, [1, 2]);
        let (first, bytes) = ranks.receive_first(&[1, 2], TAG, LIMIT)?.unwrap();
        assert_eq!((first, bytes), (1, vec![1, 1]));
        ranks.barrier()
    });
    results.into_iter().for_each(|result| result.unwrap());
}

#[test]
fn both_ends_of_an_edge_exchange() {
    let results = run(2, LIMIT, |ranks| {
        let other = 1 - ranks.rank();
        let received = ranks.exchange(other, TAG, &vec![ranks.rank() as u8; 1 << 20])?;
        assert_eq!(received, vec![other as u8; 1 << 20]);
        Ok(ranks.traffic().clone())
    });
    for traffic in results {
        let traffic = traffic.unwrap();
        assert_eq!(traffic.sent(Kind::Message).bytes, 1 << 20);
        assert_eq!(traffic.all_sent(), traffic.all_received());
        assert_eq!(traffic.sent(Kind::Reduce).messages, 0);
    }
}

#[test]
fn every_byte_is_counted_by_its_kind() {
    let traffic = run(3, LIMIT, |ranks| {
        ranks.all_reduce_sum_f32(&mut [0.0; 10])?;
        ranks.barrier()?;
        Ok(ranks.traffic().clone())
    });
    let traffic: Vec<_> = traffic.into_iter().map(Result::unwrap).collect();
    // Two ranks send 40 bytes each to rank 0, which sends as many to each.
    for (own, bytes) in traffic.iter().zip([80, 40, 40]) {
        assert_eq!(own.sent(Kind::Reduce).bytes, bytes);
        assert_eq!(own.received(Kind::Reduce).bytes, bytes);
        assert_eq!(own.sent(Kind::Barrier).bytes, 0);
    }
    assert_eq!(traffic[0].sent(Kind::Barrier).messages, 2);
}

#[test]
fn a_silent_rank_is_named_with_the_time_waited() {
    let begun = Instant::now();
    let results = run(2, SHORT, |ranks| match ranks.rank() {
        0 => ranks.receive(1, TAG),
        // Until rank 0 has ended.
        _ => Ok(ranks.receive_within(0, TAG, LIMIT).unwrap_or_default()),
    });
    let error = results[0].as_ref().unwrap_err().to_string();
    assert_eq!(
        error,
        "rank 0 failed: rank 1 sent no message within 200.000ms"
    );
    assert!(begun.elapsed() < LIMIT);
}

#[test]
fn a_rank_that_returns_or_panics_is_an_error_at_once() {
    let begun = Instant::now();
    let results = run(3, LIMIT, |ranks| match ranks.rank() {
        0 => {
            // What it sent before it ended arrives.
            assert_eq!(ranks.receive(1, TAG)?, b"last");
            ranks.receive(1, TAG)
        }
        1 => {
            ranks.send(0, TAG, b"last")?;
            Ok(Vec::new())
        }
        _ => ranks.receive(1, TAG),
    });
    assert_eq!(
        results[0].as_ref().unwrap_err().to_string(),
        "rank 0 failed: rank 1 has ended"
    );
    assert!(results[1].is_ok() && results[2].is_err());

    let results = run(2, LIMIT, |ranks| -> Result<(), CommunicatorError> {
        assert!(ranks.rank() == 0, "no luck");
        ranks.barrier()
    });
    let messages: Vec<String> = results
        .into_iter()
        .map(|result| result.unwrap_err().to_string())
        .collect();
    assert_eq!(messages[0], "rank 0 failed: rank 1 has ended by a panic");
    assert_eq!(messages[1], "rank 1 panicked: no luck");
    assert!(begun.elapsed() < LIMIT);
}

#[test]
fn of_several_failures_the_cause_is_returned() {
    let error = threads::run(4, LIMIT, |ranks| match ranks.rank() {
        3 => ranks.receive_within(0, TAG, SHORT).map(|_| ()),
        _ => ranks.barrier(),
    });
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "rank 3 failed: rank 0 sent no message within 200.000ms"
    );
}

/// A method's own error wraps that of the ranks.
#[test]
fn of_several_wrapped_failures_the_cause_is_returned() {
    let error = threads::run(4, LIMIT, |ranks| -> Result<(), DadaoError> {
        match ranks.rank() {
            3 => ranks.receive_within(0, TAG, SHORT).map(|_| ())?,
            _ => ranks.barrier()?,
        }
        Ok(())
    });
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "rank 3 failed: rank 0 sent no message within 200.000ms"
    );
}

#[test]
fn vectors_of_different_lengths_have_no_sum() {
    let results = run(2, LIMIT, |ranks| {
        let mut values = vec![1.0; 2 + ranks.rank()];
        ranks.all_reduce_sum_f32(&mut values)
    });
    let error = results[0].as_ref().unwrap_err().to_string();
    assert_eq!(
        error,
        "rank 0 failed: rank 1 sent 12 bytes, but 8 were expected"
    );
    assert!(results[1].is_err());
}

#[test]
fn ranks_that_do_not_exist_are_refused() {
    let results = run(2, LIMIT, |ranks| {
        let error = ranks.send(2, TAG, b"").unwrap_err().to_string();
        let own = ranks.rank();
        let expected =
            format!("there is no rank 2 among 2 ranks to exchange messages with rank {own}");
        assert_eq!(error, expected);
        assert!(ranks.try_receive(own, TAG).is_err());
        Ok(())
    });
    results.into_iter().for_each(|result| result.unwrap());
    assert!(threads::connected(0, LIMIT).is_err());
}

#[test]
fn injected_faults_silence_and_end_a_rank() {
    let faults = Faults::new().with_silence(0, 2).with_death(1, 1);
    let results = run(3, LIMIT, |ranks| {
        let mut ranks = Faulty::new(ranks, faults.clone());
        match ranks.rank() {
            0 => {
                assert_eq!(ranks.receive(1, TAG)?, [1]);
                let silent = ranks.receive_within(1, TAG, SHORT).unwrap_err();
                assert!(
                    matches!(silent, CommunicatorError::Silent { rank: 1, .. }),
                    "{silent}"
                );
                let ended = ranks.receive(2, TAG).unwrap_err();
                assert!(
                    matches!(ended, CommunicatorError::Ended { rank: 2, .. }),
                    "{ended}"
                );
                ranks.send(1, TAG, b"end")?;
                Ok(())
            }
            1 => {
                for round in 1..4 {
                    assert_eq!(ranks.hold_back(round, SHORT)?, Duration::ZERO);
                    ranks.send(0, TAG, &[round as u8])?;
                }
                // It still hears.
                ranks.receive_within(0, TAG, LIMIT).map(|_| ())
            }
            _ => ranks.hold_back(1, SHORT).map(|_| ()),
        }
    });
    assert!(results[0].is_ok() && results[1].is_ok());
    let error = results[2].as_ref().unwrap_err().to_string();
    assert_eq!(
        error,
        "rank 2 failed: fault injection ended rank 2 in round 1"
    );
}

#[test]
fn random_deaths_depend_on_the_seed_alone() {
    let deaths = |workers, probability| -> Vec<(usize, usize)> {
        let faults = Faults::new().with_random_deaths(workers, 20, probability, 3);
        faults.unwrap().deaths().collect()
    };
    let few = deaths(10, 0.1);
    assert!((4..=10).contains(&few.len()), "{few:?}");
    assert_eq!(few, deaths(20, 0.1)[..few.len()]);
    assert_eq!(deaths(2, 1.0), [(0, 0), (1, 0)]);
    assert!(Faults::new().with_random_deaths(1, 1, -0.1, 0).is_err());
}

#[test]
fn a_communicator_can_be_chosen_at_run_time() {
    let results = run(2, LIMIT, |ranks| {
        let ranks: &mut dyn Communicator = ranks;
        ranks.barrier()?;
        let mut boxed: Box<dyn Communicator + '_> = Box::new(Faulty::new(ranks, Faults::new()));
        let mut values = [1.0];
        boxed.all_reduce_sum_f32(&mut values)?;
        Ok(values)
    });
    for result in results {
        assert_eq!(result.unwrap(), [2.0]);
    }
}
