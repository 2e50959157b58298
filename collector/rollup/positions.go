package rollup

// positions numbers keys in the order in which they first come. What comes is
// mostly what came before in the same order, so a guess mostly holds, and few
// keys are searched one by one; many (a hostile chunk has many) are indexed.
type positions[K comparable] struct {
	keys []K
	at   map[K]int // empty until a search would be long
}

// few is how many keys are searched one by one.
const few = 32

func (p *positions[K]) reset() {
	p.keys, p.at = p.keys[:0], nil
}

// find is the position of k, which is not before first, and whether it is new.
func (p *positions[K]) find(first, guess int, k K) (at int, fresh bool) {
	if guess < len(p.keys) && p.keys[guess] == k {
		return guess, false
	}
	if p.at == nil && len(p.keys)-first <= few {
		for i := first; i < len(p.keys); i++ {
			if p.keys[i] == k {
				return i, false
			}
		}
	} else {
		if p.at == nil {
			p.at = make(map[K]int, 4*few)
			for i, k := range p.keys {
				p.at[k] = i
			}
		}
		if i, ok := p.at[k]; ok {
			return i, false
		}
		p.at[k] = len(p.keys)
	}
	p.keys = append(p.keys, k)
	return len(p.keys) - 1, true
}
