package validate

// maxParents bounds how many price ids and services are held; what comes on
// top is not checked, and the report says so.
const maxParents = 200_000

// parents tell which SKU a price id belongs to, and which category a service.
type parents struct {
	of   map[id]parent
	full bool
}

type parent struct {
	is   id
	row  int64
	told bool
}

func (p *parents) row(c *checker, row []value) {
	// A commitment that may cover several SKUs has one price id for all.
	if c.get(row, "CommitmentDiscountId").null {
		p.check(c, row, "SkuPriceId", "SkuId")
	}
	if c.get(row, "ServiceCategory").text != "Other" {
		p.check(c, row, "ServiceName", "ServiceCategory")
	}
}

func (p *parents) check(c *checker, row []value, child, name string) {
	if c.get(row, child).null || c.get(row, name).null {
		return
	}
	if p.of == nil {
		p.of = map[id]parent{}
	}
	k, is := hash(row, c, child, "ProviderName"), hash(row, c, name)
	if child == "ServiceName" {
		k[0] ^= 1 // a service may be called as a price id is
	}
	at, seen := p.of[k]
	switch {
	case !seen && len(p.of) >= maxParents:
		p.full = true
		return
	case !seen:
		at = parent{is: is, row: c.row}
	case at.is != is && !at.told:
		at.told = true
		c.find("parent", name, "is %q for %s %q, and another in row %d", clip(c.get(row, name).text), child, clip(c.get(row, child).text), at.row)
	default:
		return
	}
	p.of[k] = at
}

func (p *parents) finish(c *checker) {
	if p.full {
		c.report.Unchecked = append(c.report.Unchecked, "SKUs and categories beyond the first 200,000 price ids and services")
	}
}
