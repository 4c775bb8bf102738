//! Networks of pores and throats, and the pressures in them when a fluid flows at rest.
//!
//! Pores are points in a cube, joined as Delaunay tetrahedra or their Voronoi graph join them. Throats are thin pipes, and what
//! flows into a pore flows out of it:
//!
//! ```text
//! k_ij = π r_ij⁴ / (8 μ l_ij)            radius r, length l of the throat, viscosity μ
//! Σ_j k_ij (p_i − p_j) = 0               in pores that are not at the two faces where pressures are given
//! ```
//!
//! Diameters of pores are lognormal with median 10⁻⁵ m and 0.1, but at most 0.9 of the shortest distance of two pores; a throat
//! has the smaller diameter of its two pores, and is as long as what the pores leave of their distance. The given pressures
//! are 101325 and 0 Pa, and the target is `p` as a share of the greatest.
//!
//! The networks are those of Park, Choo, Park, *Convergent Graph Solvers*, 2021, arXiv 2106.01680. There features are in metres
//! and pascals: 10⁻³, 10⁻⁵ and 10⁻¹³ beside a flag of 0 or 1, so that a network cannot see conductances. [`Features::Scaled`]
//! divides places by the cube's side and lengths by their mean, and takes logarithms of conductances.

use std::f64::consts::PI;

use faer::Mat;
use faer::linalg::solvers::Solve;
use nabla_base::range::{self, OutOfRange};
use nabla_grad::seeded_noise::SeededNoise;
use rand::RngExt;
use rand_distr::{Distribution, StandardNormal};

use crate::delaunay::{Delaunay, DelaunayError};
use crate::graph::{Graph, GraphError};
use crate::graph_example::GraphExample;

/// What joins pores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Joining {
    /// Pores are the drawn points, joined by the edges of their Delaunay tetrahedra. The default.
    #[default]
    Delaunay,
    /// Pores are the vertices of the Voronoi cells of the drawn points, as far as they lie in the cube, joined by the cells'
    /// edges.
    Voronoi,
}

/// In which units a network sees what it learns from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Features {
    /// Numbers of order 1. The default.
    #[default]
    Scaled,
    /// Metres and pascals, as in the paper's code.
    Si,
}

/// Why there is no network of pores.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PoreError {
    /// A number is out of range.
    #[error(transparent)]
    Range(#[from] OutOfRange),
    /// The points have no tetrahedra.
    #[error(transparent)]
    Delaunay(#[from] DelaunayError),
    /// The edges don't fit.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// Too few pores are joined.
    #[error(
        "{points} points give {pores} joined pores, at least {least} are needed: take more points"
    )]
    Few {
        /// Drawn points.
        points: usize,
        /// Joined pores.
        pores: usize,
        /// How many there must be.
        least: usize,
    },
    /// Pressures are not determined.
    #[error("the pressures are not determined: a pore is not joined to one with a given pressure")]
    Singular,
}

/// Draws networks; see the [module documentation](self).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoreNetworkConfig {
    /// What joins pores.
    pub joining: Joining,
    /// How many points are drawn; 13 to 86 in the paper.
    pub points: usize,
    /// The side of the cube along `x`, in sides of the others; 1 by default. Long boxes make pressures depend on what is far.
    pub elongation: f64,
    /// The share of pores at each of the two faces whose pressure is given; 0.15 by default.
    pub boundary: f64,
}

/// Metres.
const SIDE: f64 = 1e-3;
/// Metres.
const MEDIAN_DIAMETER: f64 = 1e-5;
/// Of the logarithm.
const SPREAD: f64 = 0.1;
/// Pascal seconds.
const VISCOSITY: f64 = 1e-5;
/// Pascal, at the one face; 0 at the other.
const PRESSURE: f64 = 101_325.0;
const LEAST_PORES: usize = 4;

impl PoreNetworkConfig {
    /// With the defaults.
    pub fn new(joining: Joining, points: usize) -> Self {
        Self {
            joining,
            points,
            elongation: 1.0,
            boundary: 0.15,
        }
    }

    /// Draws a network and finds its pressures.
    ///
    /// # Errors
    /// If a number is out of range, or too few pores are joined.
    pub fn draw(&self, noise: &mut SeededNoise) -> Result<PoreNetwork, PoreError> {
        range::at_least("number of points", self.points, 4)?;
        range::positive("elongation of the cube", self.elongation)?;
        range::between("share of pores at a face", self.boundary, 0.0, 0.5)?;
        let sides = [SIDE * self.elongation, SIDE, SIDE];
        let points = (0..self.points).map(|_| sides.map(|side| side * noise.random::<f64>()));
        let delaunay = Delaunay::new(points.collect())?;
        let (places, pairs) = match self.joining {
            Joining::Delaunay => (delaunay.points().to_vec(), delaunay.edges()),
            Joining::Voronoi => {
                let centres = delaunay.circumcentres();
                let inside = |place: usize| {
                    let axes = centres[place].iter().zip(&sides);
                    axes.clone().all(|(&x, &side)| (0.0..=side).contains(&x))
                };
                let mut pairs = Vec::new();
                for (one, tetrahedron) in delaunay.tetrahedra().iter().enumerate() {
                    for other in tetrahedron.neighbours.into_iter().flatten() {
                        if one < other && inside(one) && inside(other) {
                            pairs.push([one, other]);
                        }
                    }
                }
                largest_part(&centres, &pairs)
            }
        };
        if places.len() < LEAST_PORES {
            return Err(PoreError::Few {
                points: self.points,
                pores: places.len(),
                least: LEAST_PORES,
            });
        }
        let distance = |[a, b]: [usize; 2]| {
            let axes = places[a].iter().zip(&places[b]);
            axes.map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt()
        };
        let shortest = pairs.iter().map(|&pair| distance(pair));
        let largest = 0.9 * shortest.fold(f64::INFINITY, f64::min);
        let diameters: Vec<f64> = (0..places.len())
            .map(|_| {
                let z: f64 = StandardNormal.sample(noise);
                (MEDIAN_DIAMETER * (SPREAD * z).exp()).min(largest)
            })
            .collect();
        let throats = pairs.iter().map(|&[a, b]| {
            let diameter = diameters[a].min(diameters[b]);
            let length = distance([a, b]) - 0.5 * (diameters[a] + diameters[b]);
            let radius = 0.5 * diameter;
            Throat {
                diameter,
                length,
                conductance: PI * radius.powi(4) / (8.0 * VISCOSITY * length),
            }
        });
        let throats: Vec<Throat> = throats.collect();
        let mut order: Vec<usize> = (0..places.len()).collect();
        order.sort_by(|&a, &b| places[a][0].total_cmp(&places[b][0]));
        let each = ((self.boundary * places.len() as f64).round() as usize).max(1);
        let mut given = vec![None; places.len()];
        for &pore in &order[..each] {
            given[pore] = Some(PRESSURE);
        }
        for &pore in &order[places.len() - each..] {
            given[pore] = Some(0.0);
        }
        PoreNetwork::new(places, pairs, throats, given)
    }
}

/// The largest part whose nodes are joined, with its nodes in order.
fn largest_part(places: &[[f64; 3]], pairs: &[[usize; 2]]) -> (Vec<[f64; 3]>, Vec<[usize; 2]>) {
    let mut part: Vec<usize> = (0..places.len()).collect();
    // Numbers of parts fall until those of joined nodes are one.
    loop {
        let mut changed = false;
        for &[a, b] in pairs {
            let least = part[a].min(part[b]);
            changed |= part[a] != part[b];
            (part[a], part[b]) = (least, least);
        }
        if !changed {
            break;
        }
    }
    let mut sizes = vec![0; places.len()];
    for &part in &part {
        sizes[part] += 1;
    }
    let largest = (0..places.len()).rev().max_by_key(|&part| sizes[part]);
    let mut number = vec![None; places.len()];
    let mut kept = Vec::new();
    for node in 0..places.len() {
        if Some(part[node]) == largest {
            number[node] = Some(kept.len());
            kept.push(places[node]);
        }
    }
    let pairs = pairs
        .iter()
        .filter_map(|&[a, b]| Some([number[a]?, number[b]?]));
    (kept, pairs.collect())
}

/// A pipe between two pores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Throat {
    /// Metres.
    pub diameter: f64,
    /// Metres.
    pub length: f64,
    /// `k`, cubic metres per second and pascal.
    pub conductance: f64,
}

/// A network with its pressures.
#[derive(Clone, Debug, PartialEq)]
pub struct PoreNetwork {
    places: Vec<[f64; 3]>,
    pairs: Vec<[usize; 2]>,
    throats: Vec<Throat>,
    given: Vec<Option<f64>>,
    pressures: Vec<f64>,
}

impl PoreNetwork {
    /// - `places`: of pores, metres
    /// - `pairs`: the two pores of each throat
    /// - `given`: the pressure of a pore where it is known, pascal
    ///
    /// # Errors
    /// If numbers don't fit each other, or pressures are not determined.
    pub fn new(
        places: Vec<[f64; 3]>,
        pairs: Vec<[usize; 2]>,
        throats: Vec<Throat>,
        given: Vec<Option<f64>>,
    ) -> Result<Self, PoreError> {
        // Refuses pores that there are not.
        let graph = Graph::undirected(places.len(), &pairs)?;
        graph.check_edges("throats, twice,", 2 * throats.len())?;
        graph.check_nodes("given pressures", given.len())?;
        let conductances: Vec<f64> = throats.iter().map(|throat| throat.conductance).collect();
        let pressures = pressures(&pairs, &conductances, &given)?;
        Ok(Self {
            places,
            pairs,
            throats,
            given,
            pressures,
        })
    }

    /// The places of pores, metres.
    pub fn places(&self) -> &[[f64; 3]] {
        &self.places
    }

    /// The pressure of each pore, pascal.
    pub fn pressures(&self) -> &[f64] {
        &self.pressures
    }

    /// What a network learns from. Of a pore: its place, 1 where the pressure is given, and that pressure; of a throat, in both
    /// directions: diameter, length, conductance. The target is the pressure as a share of the greatest.
    ///
    /// # Errors
    /// Never: the rows are those of the graph.
    pub fn example(&self, features: Features) -> Result<GraphExample, GraphError> {
        let count = self.throats.len() as f64;
        let mean = |of: fn(&Throat) -> f64| self.throats.iter().map(of).sum::<f64>() / count;
        let (diameter, length) = (mean(|t| t.diameter), mean(|t| t.length));
        let log = mean(|t| t.conductance.ln());
        let greatest = self
            .given
            .iter()
            .flatten()
            .fold(0.0_f64, |most, &p| most.max(p));
        let nodes = self.places.iter().zip(&self.given).map(|(place, given)| {
            let flag = f64::from(u8::from(given.is_some()));
            let pressure = given.unwrap_or(0.0);
            let (unit, pressure) = match features {
                Features::Si => (1.0, pressure),
                Features::Scaled => (SIDE, pressure / greatest),
            };
            let mut row: Vec<f64> = place.iter().map(|x| x / unit).collect();
            row.extend([flag, pressure]);
            row
        });
        let each = self.throats.iter().map(|throat| match features {
            Features::Si => vec![throat.diameter, throat.length, throat.conductance],
            Features::Scaled => vec![
                throat.diameter / diameter - 1.0,
                throat.length / length - 1.0,
                throat.conductance.ln() - log,
            ],
        });
        let targets = self.pressures.iter().map(|&p| vec![p / greatest]);
        GraphExample::new(
            Graph::undirected(self.places.len(), &self.pairs)?,
            nodes.collect(),
            each.clone().chain(each).collect(),
            targets.collect(),
        )
    }
}

/// The solution of `Σ_j k_ij (p_i − p_j) = 0` where no pressure is given.
fn pressures(
    pairs: &[[usize; 2]],
    conductances: &[f64],
    given: &[Option<f64>],
) -> Result<Vec<f64>, PoreError> {
    let scale = conductances.iter().fold(0.0_f64, |most, &k| most.max(k));
    let mut matrix = Mat::<f64>::zeros(given.len(), given.len());
    let right = Mat::from_fn(given.len(), 1, |i, _| given[i].unwrap_or(0.0));
    for (pore, given) in given.iter().enumerate() {
        if given.is_some() {
            matrix[(pore, pore)] = 1.0;
        }
    }
    for (&[a, b], &k) in pairs.iter().zip(conductances) {
        for (i, j) in [(a, b), (b, a)] {
            if given[i].is_none() {
                matrix[(i, i)] += k / scale;
                matrix[(i, j)] -= k / scale;
            }
        }
    }
    let found = matrix.partial_piv_lu().solve(&right);
    let found: Vec<f64> = (0..given.len()).map(|i| found[(i, 0)]).collect();
    match found.iter().all(|p| p.is_finite()) {
        true => Ok(found),
        false => Err(PoreError::Singular),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throat(conductance: f64) -> Throat {
        Throat {
            diameter: 1e-5,
            length: 1e-4,
            conductance,
        }
    }

    /// Conductances in a row add up as resistances.
    #[test]
    fn pressures_of_a_chain_fall_as_resistances_add_up() {
        let network = PoreNetwork::new(
            vec![[0.0; 3]; 4],
            vec![[0, 1], [1, 2], [2, 3]],
            [1.0, 0.5, 0.25].map(|k| throat(k * 1e-15)).to_vec(),
            vec![Some(7.0), None, None, Some(0.0)],
        );
        for (found, expected) in network
            .unwrap()
            .pressures()
            .iter()
            .zip([7.0, 6.0, 4.0, 0.0])
        {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
    }

    /// What flows in flows out, and no pressure is beyond those at the faces.
    #[test]
    fn drawn_networks_are_at_rest() {
        for joining in [Joining::Delaunay, Joining::Voronoi] {
            for seed in 0..3 {
                let config = PoreNetworkConfig::new(joining, 40);
                let network = config.draw(&mut SeededNoise::new(seed, 0)).unwrap();
                let count = network.places().len();
                assert!(count >= 30, "{joining:?}: {count}");
                let mut flows = vec![0.0; count];
                let mut all = vec![0.0_f64; count];
                for (&[a, b], throat) in network.pairs.iter().zip(&network.throats) {
                    assert!(throat.length > 0.0);
                    let flow = throat.conductance * (network.pressures[a] - network.pressures[b]);
                    flows[a] -= flow;
                    flows[b] += flow;
                    all[a] += throat.conductance * PRESSURE;
                }
                for (pore, &flow) in flows.iter().enumerate() {
                    let p = network.pressures[pore];
                    assert!((-1e-6..=PRESSURE + 1e-6).contains(&p));
                    if network.given[pore].is_none() {
                        assert!(flow.abs() <= 1e-9 * all.iter().sum::<f64>());
                    }
                }
                // Voronoi vertices have four edges inside.
                if joining == Joining::Voronoi {
                    let graph = Graph::undirected(count, &network.pairs).unwrap();
                    assert!(graph.by_target().sizes().iter().all(|&size| size <= 4));
                }
                let example = network.example(Features::Scaled).unwrap();
                assert_eq!(example.graph().edges(), 2 * network.pairs.len());
            }
        }
    }

    /// Poiseuille: π r⁴ / (8 μ l).
    #[test]
    fn conductances_are_those_of_pipes() {
        let config = PoreNetworkConfig::new(Joining::Delaunay, 20);
        let network = config.draw(&mut SeededNoise::new(1, 0)).unwrap();
        for throat in &network.throats {
            let expected = PI * throat.diameter.powi(4) / (128.0 * 1e-5 * throat.length);
            assert!((throat.conductance / expected - 1.0).abs() < 1e-12);
        }
    }

    #[test]
    fn what_is_not_determined_is_refused_in_words() {
        let error = PoreNetwork::new(
            vec![[0.0; 3]; 3],
            vec![[0, 1]],
            vec![throat(1.0)],
            vec![Some(1.0), None, None],
        );
        assert!(error.unwrap_err().to_string().contains("not determined"));
        let few = PoreNetworkConfig::new(Joining::Delaunay, 3);
        assert!(few.draw(&mut SeededNoise::new(1, 0)).is_err());
    }
}
