use super::*;
use crate::zeroth_order::{LineSearch, RunError};
use crate::zo_rank_sgd::{ZoRankSgd, ZoRankSgdConfig};
use proptest::prelude::*;

/// Asks for the best 2 of 3 points and gives the answers' outcome and what was written.
fn ask(answers: &[u8]) -> (Result<Vec<usize>, ProtocolError>, String) {
    let question = RankingQuestion::new(4, 2, 1, vec![0.1, -2.0, 1e300]).unwrap();
    let mut written = Vec::new();
    let result = ProtocolOracle::new(answers, &mut written).rank(&question);
    (
        result.map(|ranking| ranking.best().to_vec()),
        String::from_utf8(written).unwrap(),
    )
}

#[test]
fn questions_are_as_documented() {
    let (best, written) = ask(b"\n  \n 3, 1\r\n");
    assert_eq!(best.unwrap(), [2, 0]);
    assert_eq!(
        written,
        "nabla-ranking 1\n\
         {\"question\":4,\"candidates\":3,\"best\":2,\"dimension\":1}\n\
         {\"id\":1,\"point\":[0.1]}\n{\"id\":2,\"point\":[-2.0]}\n{\"id\":3,\"point\":[1e+300]}\n"
    );
    // The last line needs no end.
    assert_eq!(ask(b"2>3").0.unwrap(), [1, 2]);
}

#[test]
fn a_wrong_answer_is_refused_with_its_reason_and_asked_again() {
    for (answer, reason) in [
        ("1 4", "there is no id 4: the ids are 1 to 3"),
        ("0 1", "there is no id 0: the ids are 1 to 3"),
        ("2 2", "id 2 is named twice"),
        ("2", "the answer names 1 ids, but the best 2 were requested"),
        (
            "3 1 2",
            "the answer names 3 ids, but the best 2 were requested",
        ),
        (
            "1 x",
            "`x` is not an id: the answer must be ids from 1 to 3, the best first",
        ),
        (
            "+1 2",
            "`+1` is not an id: the answer must be ids from 1 to 3, the best first",
        ),
        (
            "99999999999999999999 1",
            "`99999999999999999999` is not an id: the answer must be ids from 1 to 3, the best \
             first",
        ),
    ] {
        let (best, written) = ask(format!("{answer}\n1 2\n").as_bytes());
        assert_eq!(best.unwrap(), [0, 1]);
        assert!(
            written.ends_with(&format!("\nerror: {reason}\n")),
            "{written}"
        );
    }
    let (best, written) = ask(b"\xff\n1 2\n");
    assert_eq!(best.unwrap(), [0, 1]);
    assert!(written.ends_with("error: the answer is not UTF-8 text\n"));
    let mut long = vec![b' '; LONGEST_ANSWER as usize + 5];
    long.extend(b"\n1 2\n");
    let (best, written) = ask(&long);
    assert_eq!(best.unwrap(), [0, 1]);
    assert!(written.ends_with("error: the answer is longer than 1048576 bytes\n"));
}

#[test]
fn the_end_quit_and_too_many_wrong_answers_are_told() {
    let told = |answers: &str| ask(answers.as_bytes()).0.unwrap_err().to_string();
    assert_eq!(told(""), "the input ended before question 4 was answered");
    assert_eq!(
        told("9 9\n"),
        "the input ended before question 4 was answered"
    );
    assert_eq!(told("quit\n"), "the ranker has quit");
    assert_eq!(told("1\n quit "), "the ranker has quit");
    assert_eq!(
        told("1\n2\n3\n1 2\n"),
        "question 4 has no valid answer in 3 attempts; the last: the answer names 1 ids, but the \
         best 2 were requested"
    );
}

proptest! {
    #[test]
    fn what_is_parsed_is_an_order(
        line in "[0-9 ,>a-z+.-]{0,20}", candidates in 1usize..6, best in 1usize..6,
    ) {
        if let Ok(Answer::Best(named)) = parse_answer(&line, candidates, best) {
            prop_assert_eq!(named.len(), best);
            prop_assert!(Ranking::new(candidates, named).is_ok());
        }
    }

    /// Any bytes: no panic, and never an order from a line that is not made of its ids.
    #[test]
    fn any_bytes_are_an_order_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let (Ok(best), _) = ask(&bytes) {
            let text = String::from_utf8_lossy(&bytes).replace([',', '>'], " ");
            let ids: Vec<String> = best.iter().map(|i| (i + 1).to_string()).collect();
            let holds = text.split('\n').any(|line| {
                line.split_whitespace().map(|word| word.trim_start_matches('0')).eq(&ids)
            });
            prop_assert!(holds, "{text}");
        }
    }

    #[test]
    fn an_order_in_any_form_is_read_back(
        order in Just((1..=7usize).collect::<Vec<_>>()).prop_shuffle(),
        best in 1usize..=7,
        separators in prop::collection::vec(prop::sample::select(vec![" ", ",", " > ", "\t", ", "]), 7),
    ) {
        let line: String = order[..best]
            .iter()
            .zip(&separators)
            .map(|(id, separator)| format!("{id}{separator}"))
            .collect();
        let zero_based = order[..best].iter().map(|id| id - 1).collect();
        prop_assert_eq!(parse_answer(&line, 7, best), Ok(Answer::Best(zero_based)));
    }

    /// Each side reads what the other writes: ids, shuffled or not, name the right points.
    #[test]
    fn both_sides_agree(
        points in prop::collection::vec(any::<f64>().prop_filter("finite", |x| x.is_finite()), 2..8),
        seed in prop::option::of(any::<u64>()),
        number in any::<u64>(),
    ) {
        let question = RankingQuestion::new(number, 2, 1, points.clone()).unwrap();
        let mut oracle = ProtocolOracle::new(&b""[..], Vec::new());
        if let Some(seed) = seed {
            oracle = oracle.shuffled(seed);
        }
        prop_assert!(oracle.rank(&question).is_err());
        let mut answers = Vec::new();
        let mut seen = Vec::new();
        serve(&oracle.output[..], &mut answers, |x| {
            seen.push(x[0]);
            x[0]
        })
        .unwrap();
        seen.sort_by(f64::total_cmp);
        let mut sorted = points.clone();
        sorted.sort_by(f64::total_cmp);
        prop_assert_eq!(&seen, &sorted);
        let mut oracle = ProtocolOracle::new(&answers[..], io::sink());
        if let Some(seed) = seed {
            oracle = oracle.shuffled(seed);
        }
        let named = oracle.rank(&question).unwrap();
        let values: Vec<f64> = named.best().iter().map(|&i| points[i]).collect();
        prop_assert_eq!(values, &sorted[..2]);
    }
}

#[test]
fn the_other_side_tells_what_is_wrong() {
    let told = |text: &str| {
        serve(text.as_bytes(), io::sink(), |x| x[0])
            .unwrap_err()
            .to_string()
    };
    let question = "{\"question\":7,\"candidates\":2,\"best\":1,\"dimension\":1}\n";
    let point = "{\"id\":1,\"point\":[2.0]}\n";
    assert_eq!(serve(&b""[..], io::sink(), |x| x[0]).unwrap(), 0);
    assert_eq!(
        told("nabla-ranking 2\n"),
        "`nabla-ranking 2` is not a valid first line of the ranking protocol"
    );
    assert_eq!(
        told("nabla-ranking 1\nhello\n"),
        "`hello` is not a valid question of the ranking protocol"
    );
    assert_eq!(
        told("nabla-ranking 1\nerror: id 2 is named twice\n"),
        "the answer was refused: id 2 is named twice"
    );
    assert_eq!(
        told(&format!("nabla-ranking 1\n{question}{point}")),
        "the input ended before question 7 was answered"
    );
    assert_eq!(
        told(&format!("nabla-ranking 1\n{question}{point}{point}")),
        "`{\"id\":1,\"point\":[2.0]}` is not a valid candidate of this question of the ranking protocol"
    );
    let none = question.replace("\"best\":1", "\"best\":3");
    let second = point.replace("\"id\":1", "\"id\":2");
    assert!(
        told(&format!("nabla-ranking 1\n{none}{point}{second}")).contains("not a valid question")
    );
}

/// A ranker in another thread behind pipes gives the same run as the function itself, and a run
/// that was cut off by `quit` and saved resumes to the same bits.
#[test]
fn a_run_over_pipes_is_that_of_the_function_and_resumes_exactly() {
    use crate::ranking_oracle::FunctionOracle;
    let f = |x: &[f64]| x.iter().map(|x| (x - 0.3).powi(2)).sum::<f64>();
    let config = ZoRankSgdConfig::new()
        .with_candidates(6)
        .with_best(Some(3))
        .with_line_search(Some(LineSearch::human_feedback(5)))
        .with_seed(11);
    let start = [1.0, -2.0, 0.5];
    let mut direct = ZoRankSgd::new(config.clone(), start).unwrap();
    for _ in 0..20 {
        direct.step(&mut FunctionOracle::new(f)).unwrap();
    }

    let (question_end, asking_end) = io::pipe().unwrap();
    let (answer_end, telling_end) = io::pipe().unwrap();
    let ranker = std::thread::spawn(move || {
        serve(io::BufReader::new(question_end), telling_end, f).unwrap()
    });
    let mut piped = ZoRankSgd::new(config.clone(), start).unwrap();
    let mut oracle = ProtocolOracle::new(io::BufReader::new(answer_end), asking_end).shuffled(5);
    for _ in 0..20 {
        piped.step(&mut oracle).unwrap();
    }
    drop(oracle);
    assert_eq!(ranker.join().unwrap(), 40);
    assert_eq!(piped, direct);

    // Answers of the first 7 questions, then `quit`.
    let mut run = ZoRankSgd::new(config, start).unwrap();
    let mut answers = String::new();
    let mut copy = run.clone();
    for _ in 0..7 {
        let question = copy.question().unwrap();
        let ranking = FunctionOracle::new(f).rank(&question).unwrap();
        let ids: Vec<String> = ranking.best().iter().map(|i| (i + 1).to_string()).collect();
        answers += &format!("{}\n", ids.join(" "));
        copy.answer(&ranking).unwrap();
    }
    answers += "quit\n";
    let mut oracle = ProtocolOracle::new(answers.as_bytes(), io::sink());
    let error = loop {
        if let Err(error) = run.step(&mut oracle) {
            break error;
        }
    };
    assert!(matches!(error, RunError::Oracle(ProtocolError::Quit)));
    let saved = serde_json::to_string(run.state()).unwrap();
    let mut resumed = ZoRankSgd::from_state(serde_json::from_str(&saved).unwrap()).unwrap();
    assert_eq!(resumed.state().questions, 7);
    while resumed.state().iterations < 20 {
        resumed.step(&mut FunctionOracle::new(f)).unwrap();
    }
    assert_eq!(resumed, direct);
}
