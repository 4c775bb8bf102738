use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};

use super::*;

fn column(values: &[f64]) -> Tensor<2> {
    let data = TensorData::new(values.to_vec(), [values.len(), 1]);
    Tensor::from_data(data, (&Device::flex().autodiff(), DType::F64))
}

fn near(found: Tensor<2>, expected: &[f64]) {
    let expected = TensorData::new(expected.to_vec(), found.dims());
    let close = Tolerance::absolute(1e-12);
    found.into_data().assert_approx_eq::<f64>(&expected, close);
}

fn graph() -> Graph {
    // Two edges 0 → 1, one 2 → 1, one 1 → 0; node 3 alone.
    Graph::new(4, vec![0, 0, 2, 1], vec![1, 1, 1, 0]).unwrap()
}

#[test]
fn sums_means_and_maxima_are_those_of_the_edges_of_a_node() {
    let x = column(&[1.0, 4.0, -2.0, -3.0]);
    let by = graph().by_target();
    assert_eq!(by.sizes(), [1, 3, 0, 0]);
    near(by.sum(x.clone()).unwrap(), &[-3.0, 3.0, 0.0, 0.0]);
    near(by.mean(x.clone()).unwrap(), &[-3.0, 1.0, 0.0, 0.0]);
    near(by.max(x.clone()).unwrap(), &[-3.0, 4.0, 0.0, 0.0]);
    let by = graph().by_source();
    near(by.sum(x.clone()).unwrap(), &[5.0, -3.0, -2.0, 0.0]);
    let [a, b, c] = [1.0_f64, 4.0, -2.0].map(f64::exp);
    let all = a + b + c;
    let found = graph().by_target().softmax(x).unwrap();
    near(found, &[a / all, b / all, c / all, 1.0]);
}

/// A softmax of large numbers is finite.
#[test]
fn a_softmax_does_not_overflow() {
    let found = graph().by_target().softmax(column(&[1e3, 1e3, -1e3, 0.0]));
    near(found.unwrap(), &[0.5, 0.5, 0.0, 1.0]);
}

/// Against central differences.
#[test]
fn gradients_are_those_of_differences() {
    let (values, weights) = ([0.3, -0.8, 1.1, 0.4], [0.7, -1.3, 0.2, 2.0]);
    type Of = fn(&Segments, Tensor<2>) -> Tensor<2>;
    let operations: [Of; 4] = [
        |by, x| by.spread(by.sum(x).unwrap()).unwrap(),
        |by, x| by.spread(by.mean(x).unwrap()).unwrap(),
        |by, x| by.spread(by.max(x).unwrap()).unwrap(),
        |by, x| by.softmax(x).unwrap(),
    ];
    for operation in operations {
        let by = graph().by_target();
        let loss = |x: Tensor<2>| (operation(&by, x).square() * column(&weights)).sum();
        let x = column(&values).require_grad();
        let gradient = x.grad(&loss(x.clone()).backward()).unwrap();
        let gradient = gradient.into_data().try_to_vec::<f64>().unwrap();
        for place in 0..values.len() {
            let at = |step: f64| {
                let mut moved = values;
                moved[place] += step;
                loss(column(&moved)).into_scalar::<f64>()
            };
            let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
            assert!((gradient[place] - expected).abs() < 1e-8, "{place}");
        }
    }
}

#[test]
fn a_batch_is_its_graphs_side_by_side() {
    let single = Graph::new(2, vec![0], vec![1]).unwrap();
    let two = Graph::batch(&[graph(), single.clone()]);
    let all = Graph::batch(&[two, single]);
    assert_eq!((all.nodes(), all.edges(), all.graphs()), (8, 6, 3));
    assert_eq!(all.sources(), [0, 0, 2, 1, 4, 6]);
    assert_eq!(all.targets(), [1, 1, 1, 0, 5, 7]);
    let parts: Vec<_> = all.parts().collect();
    assert_eq!(parts, [(0..4, 0..4), (4..6, 4..5), (6..8, 5..6)]);
    let sums = all.by_graph().sum(column(&[1.0; 8])).unwrap();
    near(sums, &[4.0, 2.0, 2.0]);
}

#[test]
fn graphs_without_edges_or_nodes_work() {
    let graph = Graph::new(2, vec![], vec![]).unwrap();
    let none = Tensor::<2>::zeros([0, 3], &Device::flex());
    assert_eq!(graph.by_target().sum(none.clone()).unwrap().dims(), [2, 3]);
    assert_eq!(graph.by_target().max(none.clone()).unwrap().dims(), [2, 3]);
    assert_eq!(graph.by_target().softmax(none).unwrap().dims(), [0, 3]);
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let error = Graph::new(2, vec![0, 1], vec![1, 2]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "edge 1 goes from 1 to 2, but the graph has 2 nodes"
    );
    let error = Graph::new(2, vec![0, 1], vec![1]).unwrap_err();
    assert!(error.to_string().starts_with("2 sources and 1 targets"));
    let error = graph().by_target().sum(column(&[1.0])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the rows of a sum have 1 rows, expected 4"
    );
}
